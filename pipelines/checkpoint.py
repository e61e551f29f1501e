"""Checkpoints of a run: everything needed to go on exactly, atomic, hashed, and without pickle."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines import sealed

STATE, TENSORS = "state.json", "tensors.safetensors"
NAMED = re.compile(r"step-(\d+)(?:-(\d+))?")
"""A checkpoint's name: its step, and its number among those of that step, where it is not the first."""
KEPT = 2
ATTEMPTS = 5
"""Times that a folder is looked through again because another process took away what was being read."""


def write(folder: Path, step: int, state: dict[str, Any], score: float | None = None, keep: int = KEPT) -> Path:
    """Writes a checkpoint of nested dicts, lists, numbers, strings and tensors, and prunes old ones.

    Kept are the newest `keep` and the one with the highest `score`; the one before is deleted only once this one was
    read back and is whole. A step that is taken again gets one more checkpoint, which is the newer one.
    Raises OSError when it cannot be written, and then leaves nothing of it.
    """
    skeleton, tensors = take_apart(state)
    return write_parts(folder, step, skeleton, copy_to_cpu(tensors), score, keep)


def write_parts(
    folder: Path, step: int, skeleton: Any, tensors: Mapping[str, Tensor], score: float | None, keep: int
) -> Path:
    """Writes a checkpoint as `write` does, from parts in host memory, no two of which share it."""
    before = [number for then, number in (order(place.name) for place in steps(folder)) if then == step]
    place = folder / (f"step-{step:09d}-{max(before) + 1}" if before else f"step-{step:09d}")
    try:
        sealed.write(place, lambda rough: _fill(rough, skeleton, tensors), {"step": step, "score": score})
    except BaseException:
        sweep(folder)
        raise
    sealed.verify(place)
    prune(folder, keep)
    return place


def latest(folder: Path) -> tuple[dict[str, Any], list[str]] | None:
    """Reads the newest whole checkpoint below a folder; None when there never was one.

    Returns the state and a sentence for each newer checkpoint that was passed over as corrupt.
    Raises ValueError when there are checkpoints and none of them is whole.
    """
    for _ in range(ATTEMPTS):
        problems: list[str] = []
        found = steps(folder)
        for place in reversed(found):
            try:
                sealed.verify(place)
                return _read(place), problems
            except (sealed.Corrupt, OSError) as problem:
                problems.append(str(problem))
        if not found:
            return None
        if steps(folder) == found:
            raise ValueError(f"no checkpoint below {str(folder)!r} is whole: {problems[0]}")
    raise ValueError(f"the checkpoints below {str(folder)!r} vanish while they are read; another run writes there")


def set_aside(folder: Path) -> None:
    """Renames checkpoints newer than the newest whole one, so that none counts as kept; a later write deletes them."""
    for place in reversed(steps(folder)):
        if is_whole(place):
            return
        aside = place.with_name(f"corrupt-{place.name}")
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):  # it may vanish, or the disk be read-only
            place.rename(aside)


def steps(folder: Path) -> list[Path]:
    """Lists the checkpoints below a folder, whole or not, the oldest first."""
    found = [place for place in folder.glob("step-*") if NAMED.fullmatch(place.name)] if folder.is_dir() else []
    return sorted(found, key=lambda place: order(place.name))


def whole(folder: Path) -> list[Path]:
    """Lists the checkpoints below a folder that are whole, the oldest first."""
    return [place for place in steps(folder) if is_whole(place)]


def is_whole(place: Path) -> bool:
    """Says whether a checkpoint is what its manifest says."""
    try:
        sealed.verify(place)
    except (sealed.Corrupt, OSError):
        return False
    return True


def step_of(name: str) -> int:
    """Reads the step from a checkpoint's name."""
    return order(name)[0]


def order(name: str) -> tuple[int, int]:
    """Reads from a checkpoint's name how new it is: its step, and its number among those of that step."""
    found = NAMED.fullmatch(name)
    assert found, name
    return int(found[1]), int(found[2] or 1)


def prune(folder: Path, keep: int) -> None:
    """Deletes all but the newest `keep` and the best, and what was set aside."""
    found = steps(folder)
    staying = kept({place.name: _score(place) for place in found}, keep)
    for place in [*found, *folder.glob("corrupt-step-*")]:
        if place.name not in staying:
            shutil.rmtree(place, ignore_errors=True)


def kept(scores: Mapping[str, float | None], keep: int) -> set[str]:
    """Names the newest `keep` and the best of checkpoints, of which each has a score or none."""
    known = {name: (score, order(name)) for name, score in scores.items() if score is not None}
    best = [max(known, key=lambda name: known[name])] if known else []
    return {*sorted(scores, key=order)[-keep:], *best}


def forget_after(folder: Path, step: int) -> None:
    """Deletes the checkpoints of later steps."""
    for place in steps(folder):
        if step_of(place.name) > step:
            shutil.rmtree(place, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Deletes what this process and dead ones left half-written; a live process's is left alone."""
    for rough in folder.glob(".step-*.rough"):
        pid = int(rough.name.split(".")[-2])
        if pid == os.getpid() or not _is_alive(pid):
            shutil.rmtree(rough, ignore_errors=True)


def digest(state: dict[str, Any]) -> str:
    """Hashes a state, its tensors bit by bit; SHA-256 in hexadecimal, the same on every device."""
    skeleton, tensors = take_apart(state)
    sha = hashlib.sha256(json.dumps(_ordered(skeleton)).encode())
    for path in sorted(tensors):
        tensor = tensors[path].cpu().contiguous()
        sha.update(f"{path} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def take_apart(state: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Separates a state into what JSON can say and its tensors by path; tensors are not copied."""
    tensors: dict[str, Tensor] = {}
    return _take_apart(state, "", tensors), tensors


def put_together(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Gives the state that was taken apart; tuples come back as lists."""
    if not isinstance(skeleton, dict):
        return skeleton
    if "tensor" in skeleton:
        return tensors[skeleton["tensor"]]
    if "dict" in skeleton:
        return {key: put_together(item, tensors) for key, item in skeleton["dict"]}
    return [put_together(item, tensors) for item in skeleton["list"]]


def take_out(state: dict[str, Any], paths: Collection[str]) -> dict[str, dict[str, Any]]:
    """Empties the dicts that there are at paths such as `average/weights`; gives what was in them, by path."""
    taken = {}
    for path in paths:
        *above, name = path.split("/")
        place = _at(state, above)
        if isinstance(place.get(name), dict):
            taken[path], place[name] = place[name], {}
    return taken


def put_back(state: dict[str, Any], taken: Mapping[str, dict[str, Any]]) -> None:
    """Fills the dicts that `take_out` emptied."""
    for path, content in taken.items():
        *above, name = path.split("/")
        _at(state, above)[name] = content


def _at(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    for name in names:
        state = state.get(name) or {}
    return state


def copy_to_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies a state dict so that further training leaves the copy alone."""
    with torch.no_grad():
        return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}


def _ordered(skeleton: Any) -> Any:
    """Sorts dicts by key: the order in which an optimizer met its parameters is no part of its state."""
    if not isinstance(skeleton, dict) or "tensor" in skeleton:
        return skeleton
    if "dict" in skeleton:
        pairs = [[key, _ordered(item)] for key, item in skeleton["dict"]]
        return {"dict": sorted(pairs, key=lambda pair: str(pair[0]))}
    return {"list": [_ordered(item) for item in skeleton["list"]]}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _score(place: Path) -> float | None:
    try:
        return score((place / sealed.MANIFEST).read_bytes())
    except OSError:
        return None


def score(manifest: bytes) -> float | None:
    """Reads a checkpoint's score from its manifest; None where it has none or cannot be read."""
    try:
        return json.loads(manifest).get("score")
    except (ValueError, AttributeError):
        return None


def _fill(rough: Path, skeleton: Any, tensors: Mapping[str, Tensor]) -> None:
    (rough / STATE).write_text(json.dumps(skeleton))
    save_file({path: tensor.contiguous() for path, tensor in tensors.items()}, str(rough / TENSORS))


def _read(place: Path) -> dict[str, Any]:
    skeleton = json.loads((place / STATE).read_text())
    return put_together(skeleton, load_file(str(place / TENSORS)))


def _take_apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Replaces tensors by their paths, and dicts by pairs, since JSON would make strings of number keys."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[key, _take_apart(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_take_apart(item, f"{path}/{number}", tensors) for number, item in enumerate(value)]}
    assert value is None or isinstance(value, bool | int | float | str), f"{path} is a {type(value)}"
    return value
