"""Run folders: what a run is about, so that it can be recorded and continued; standard library only."""

import json
import secrets
import shutil
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipelines import journal, sealed, tasks
from pipelines.settings import Launch, Settings
from pipelines.tasks import Task

ABOUT = "run.json"


@dataclass(frozen=True)
class Run:
    """A task, its settings, and the folder where checkpoints, journal and artifact go."""

    word: str
    """The task as it was named: its name, or the folder of a user's own."""
    task: Task
    config: Settings
    folder: Path


def create(word: str, task: Task, config: Settings, launch: Launch, folder: Path | None = None) -> Run:
    """Makes a run folder, by default runs/TASK-DATE-TIME in the working folder.

    Raises ValueError when the folder holds a run already, or anything else: it is the run's alone.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = folder or _free(Path("runs") / f"{task.name}-{stamp}")
    folder = folder.resolve()
    if (folder / ABOUT).exists():
        raise ValueError(f"{str(folder)!r} holds a run already; `--resume {folder}` continues it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--run-dir {str(folder)!r} is not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    word = word if word in tasks.TASKS else str(task.folder)
    config, launch = absolute(config), _placed(launch)
    named = {"word": word, "task": task.name, "id": secrets.token_hex(16)}
    _describe(folder, {**named, "config": asdict(config), "launch": asdict(launch)})
    return Run(word, task, config, folder)


def change(run: Run, config: Settings, launch: Launch) -> Run:
    """Gives a run other settings, and another launch, for the rest of it; leaves the description where none differs."""
    before = launched(run.folder)
    launch = replace(_placed(launch), resume="", resume_anyway=False, run_dir=before.run_dir)
    if (config, launch) != (run.config, before):
        _describe(run.folder, {**_about(run.folder), "config": asdict(config), "launch": asdict(launch)})
    return replace(run, config=config)


def relocate(folder: Path, place: Path) -> None:
    """Tells a run of a user's own task where that task's folder is now."""
    about = _about(folder)
    if Path(about["word"]).is_absolute():
        _describe(folder, {**about, "word": str(place.resolve())})


def _describe(folder: Path, about: dict[str, Any]) -> None:
    sealed.put(folder / ABOUT, json.dumps(about, indent=2) + "\n")


def absolute(config: Settings) -> Settings:
    """Makes the paths of a configuration absolute, where there is something at them."""
    found = {name: Path(value) for name in config.PATHS if (value := getattr(config, name, ""))}
    known = {name: str(path.resolve()) for name, path in found.items() if path.exists()}
    patterns = {name: path for name, path in found.items() if set("*?[") & set(path.name) and path.parent.is_dir()}
    known |= {name: str(path.parent.resolve() / path.name) for name, path in patterns.items() if name not in known}
    return replace(config, **known)


def _placed(launch: Launch) -> Launch:
    """Names the folder that a launch copies to by its whole path."""
    if not launch.storage or "://" in launch.storage:
        return launch
    return replace(launch, storage=str(Path(launch.storage).resolve()))


def discard(runs: list[Run]) -> None:
    """Removes the folders of runs that were refused before they took a step, as for data that cannot be read."""
    for run in runs:
        if not journal.has_begun(run.folder):
            shutil.rmtree(run.folder)


def join(word: str, task: Task, config: Settings, folder: Path | None = None) -> Run:
    """Describes a run whose folder another rank makes."""
    return Run(word, task, config, folder or Path())


def reopen(folder: Path) -> Run:
    """Opens an earlier run to continue it. Raises ValueError when the folder holds none."""
    about = _about(folder)
    task = tasks.find(about["word"])
    return Run(about["word"], task, _config(task, about["config"], folder), folder.resolve())


def launched(folder: Path) -> Launch:
    """Says where an earlier run happened. Raises ValueError when the folder holds none."""
    known = {field.name for field in fields(Launch)}
    return Launch(**{key: value for key, value in _about(folder)["launch"].items() if key in known})


def _about(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{str(folder)!r} holds no run: there is no {ABOUT} in it") from None
    except ValueError as problem:
        raise ValueError(f"{str(folder / ABOUT)!r} is damaged: {problem}") from problem


def check_same(run: Run, task: Task, config: Settings, anyway: bool = False) -> None:
    """Raises ValueError when a run is continued as another task or, unless `anyway`, with other settings."""
    if task.name != run.task.name:
        raise ValueError(f"{str(run.folder)!r} is a run of {run.task.name}, not of {task.name}")
    for field in () if anyway else fields(run.config):
        then, now = getattr(run.config, field.name), getattr(config, field.name)
        if then != now:
            flag = "--" + field.name.replace("_", "-")
            raise ValueError(
                f"the run in {str(run.folder)!r} has {flag} {then}, not {now}; leave the flag out to resume, or add "
                "--resume-anyway"
            )


def _config(task: Task, values: dict[str, Any], folder: Path) -> Settings:
    """Reads settings; those that were added since then have their defaults."""
    kind = task.config.Config
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f"the run in {str(folder)!r} was made by another version of {task.name}; it has settings that this one "
            f"lacks: {', '.join(unknown)}"
        )
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _free(folder: Path) -> Path:
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
