"""Checkpoints of a run: everything needed to go on exactly, atomic, hashed, and without pickle."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines import sealed

STATE, TENSORS = "state.json", "tensors.safetensors"
KEPT = 2


def write(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes a checkpoint of nested dicts, lists, numbers, strings and tensors, and prunes old ones.

    The one before is kept, and deleted only once a newer one is whole. A step that a resumed run takes again
    keeps its checkpoint, unless that is the corrupt one it was resumed without.
    """
    place = folder / f"step-{step:09d}"
    if not _is_whole(place):
        for torn in [place, *folder.glob(".step-*.rough")]:  # what a crash left half-written
            shutil.rmtree(torn, ignore_errors=True)
        sealed.write(place, lambda rough: _fill(rough, state))
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old)
    return place


def latest(folder: Path) -> tuple[dict[str, Any], list[str]] | None:
    """Reads the newest whole checkpoint below a folder; None when there never was one.

    Returns the state and a sentence for each newer checkpoint that was passed over as corrupt.
    Raises ValueError when there are checkpoints and none of them is whole.
    """
    problems: list[str] = []
    for place in reversed(_all(folder)):
        try:
            sealed.verify(place)
        except sealed.Corrupt as problem:
            problems.append(str(problem))
            continue
        return _read(place), problems
    if problems:
        raise ValueError(f"no checkpoint below {str(folder)!r} is whole: {problems[0]}")
    return None


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _is_whole(place: Path) -> bool:
    try:
        sealed.verify(place)
    except sealed.Corrupt:
        return False
    return True


def _fill(rough: Path, state: dict[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    skeleton = _take_apart(state, "", tensors)
    (rough / STATE).write_text(json.dumps(skeleton))
    save_file(tensors, str(rough / TENSORS))


def _read(place: Path) -> dict[str, Any]:
    skeleton = json.loads((place / STATE).read_text())
    return _put_together(skeleton, load_file(str(place / TENSORS)))


def _take_apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Replaces tensors by their paths, and dicts by pairs, since JSON would make strings of number keys."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[key, _take_apart(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_take_apart(item, f"{path}/{number}", tensors) for number, item in enumerate(value)]}
    assert value is None or isinstance(value, bool | int | float | str), f"{path} is a {type(value)}"
    return value


def _put_together(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "dict" in value:
        return {key: _put_together(item, tensors) for key, item in value["dict"]}
    return [_put_together(item, tensors) for item in value["list"]]


def copy_to_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies a state dict so that further training leaves the copy alone."""
    with torch.no_grad():
        return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}
