"""What a checkpoint belongs to: task, settings, code and data, and what differs from what is at hand now."""

import hashlib
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipelines.place import Place
from pipelines.settings import Settings
from pipelines.tasks import Task

ROOT = Path(__file__).parent
IMPORT = re.compile(
    r"^[ \t]*(?:from[ ]+(pipelines[\w.]*)[ ]+import[ ]+(\([^)]*\)|[^\n]+)|import[ ]+(pipelines[\w.]+))", re.MULTILINE
)
BESIDE = ("mirror.py", "release.py", "storage.py", "stopping.py")
"""What the loop calls and learns nothing by; not followed."""
EXACT = ("world", "threads", "device", "PyTorch", "GPU")
"""What may change, but the run is not bit-identical then."""
ANYWAY = "give what it began with, start a new run, or add --resume-anyway"


def describe(task: Task, config: Settings, data_digest: str, place: Place) -> dict[str, Any]:
    """Says what a run learns, by which code, from what, and by what, and how much of it, it is computed."""
    told = {name: value for name, value in asdict(config).items() if name not in config.PATHS}  # the digest has these
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
    exact = {"world": place.world, "threads": place.threads, "device": place.device.partition(":")[0]}
    exact |= {"PyTorch": torch.__version__, "GPU": torch.cuda.get_device_name(place.device) if place.is_gpu else ""}
    return {"task": task.name, "settings": settings, "code": code_digest(task), "data": data_digest, **exact}


def check(then: dict[str, Any] | None, now: dict[str, Any], where: str, anyway: bool) -> list[str]:
    """Compares a checkpoint's description with the present one.

    Returns a sentence for each reason why the run will not be bit-identical. Raises ValueError when the checkpoint is
    another task's, or, unless `anyway`, when settings, code or data are others, naming all that differ.
    """
    if then is None:
        raise ValueError(f"the checkpoint in {where!r} was written by another version of eagerly; start a new run")
    if then["task"] != now["task"]:
        raise ValueError(f"the checkpoint in {where!r} is one of {then['task']}, not of {now['task']}")
    others = _settings(then["settings"], now["settings"])
    if then["code"] != now["code"]:
        others.append(f"was computed by other code (digest {then['code'][:12]}, now {now['code'][:12]})")
    if then["data"] != now["data"]:
        others.append(f"learned from other data (digest {then['data'][:12]}, now {now['data'][:12]})")
    if others and not anyway:
        raise ValueError(f"the checkpoint in {where!r} {', and '.join(others)}; {ANYWAY}")
    told = [(name, then.get(name, ""), now[name]) for name in EXACT]
    moved = [(name, before, after) for name, before, after in told if before and after and before != after]
    return [*others, *(f"was taken with {name} {before}, now {after}" for name, before, after in moved)]


def _settings(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Lists the settings that differ; one that was added since is compared by its default in `runs.reopen`."""
    named = [name for name in then if name in now and then[name] != now[name]]
    return [f"has --{name.replace('_', '-')} {then[name]}, not {now[name]}" for name in named]


def code_digest(task: Task) -> str:
    """Hashes the sources that decide what is learned; SHA-256 in hexadecimal."""
    sha = hashlib.sha256()
    for name, path in sorted(sources(task).items()):
        text = path.read_bytes()
        sha.update(f"{name} {len(text)}\n".encode() + text)
    return sha.hexdigest()


def sources(task: Task) -> dict[str, Path]:
    """Lists the sources of the loop, of the task, and of all in pipelines that they import, by their names there."""
    found: dict[str, Path] = {}
    own = [path for path in task.folder.rglob("*.py") if "/." not in f"/{path.relative_to(task.folder)}"]
    waiting = [ROOT / "loop.py", *sorted(own)]
    while waiting:
        path = waiting.pop()
        name = str(path.relative_to(task.folder.parent if task.folder in path.parents else ROOT))
        if name not in (*found, *BESIDE):
            found[name] = path
            waiting += _imported(path.read_text(encoding="utf-8"))
    return found


def _imported(source: str) -> list[Path]:
    """Lists the files of pipelines that a source imports; parsing it would take a second at every start."""
    names: set[str] = set()
    for package, several, module in IMPORT.findall(source):
        parts = [part.split()[0] for part in several.strip("()").split(",") if part.strip()]
        names |= {package or module, *(f"{package}.{part}" for part in parts)}
    paths = (ROOT.parent / f"{name.replace('.', '/')}.py" for name in names)
    return [path for path in paths if path.is_file()]
