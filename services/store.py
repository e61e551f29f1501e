"""What a node keeps of a registry's models, so that it serves on, and starts again, while the registry is away.

$EAGERLY_HOME/models/<registry>/     a hash of the registry's address: two registries never mix
    state.json                       whether the registry answers, and what was refused; the watcher writes it
    watcher.lock                     held by the replica whose child the watcher is
    <task>/
        <version>-<digest>/          a model, complete or not at all
        .incoming-<any>/             a model on its way, with a lock that the process holds that brings it
        current.json                 the version that the registry wants served; the watcher writes it
        good.json                    the version that answered its own examples last; replicas write it
        rollout.json, seats/         a version on trial and what is counted of it; see seats.py
        users.lock                   held, shared, by every replica that serves the task
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from services.models import Stored

KEPT_COUNT = 3
"""Versions of a task that stay on disk, for a way back without a download."""
_FOLDER = re.compile(r"\d+-[0-9a-f]{64}")


@dataclass(frozen=True)
class State:
    """What the watcher knows of the registry."""

    up: bool = True
    reason: str = ""
    """Why it is not up."""
    refused: dict[str, str] = field(default_factory=dict)
    """For a task whose wanted version was refused: which, and why."""
    unnamed: list[str] = field(default_factory=list)
    """Tasks for which the registry names no champion."""
    ended: dict[str, list[str]] = field(default_factory=dict)
    """Of the last rollout of a task that ended while this node had it: its id, and how it ended."""


@dataclass(frozen=True)
class Store:
    """The models of one registry on this machine."""

    home: str
    """The folder of state and caches, absolute."""
    uri: str
    """The registry's address; a file's is absolute."""
    patience_s: float = 120.0
    """Seconds that a replica without a model waits for one to come from the registry."""

    @property
    def folder(self) -> Path:
        """Where all of it lies; the address may hold a password, so its hash names the folder."""
        return Path(self.home) / "models" / hashlib.sha256(self.uri.encode()).hexdigest()[:12]

    def place(self, task: str, version: int, digest: str) -> Path:
        """The folder of a version, there or not; raises ValueError when the digest is none."""
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"{task} version {version} has no SHA-256 digest in the registry, but {digest!r}")
        return self.folder / task / f"{version}-{digest}"

    def current(self, task: str) -> Stored | None:
        """Reads which version the registry wants served; None when there is none on this machine."""
        return self._read(task, "current.json")

    def good(self, task: str) -> Stored | None:
        """Reads which version answered its own examples last; None when none has, on this machine."""
        return self._read(task, "good.json")

    def publish(self, stored: Stored) -> None:
        """Makes a version the one that replicas take up."""
        os.utime(stored.folder)
        self._write(stored, "current.json")

    def confirm(self, stored: Stored) -> None:
        """Notes that a version answers."""
        if self.good(stored.service) != _plain(stored):
            self._write(stored, "good.json")

    def discard(self, stored: Stored) -> None:
        """Removes a version that is damaged on disk, upon which the watcher fetches it anew."""
        shutil.rmtree(stored.folder, ignore_errors=True)

    def tidy(self, task: str, *on_trial: Stored) -> None:
        """Removes all but the latest versions; what is current, good or on trial stays."""
        needed = {stored.folder for stored in (self.current(task), self.good(task), *on_trial) if stored}
        folders = [path for path in (self.folder / task).glob("*") if _FOLDER.fullmatch(path.name)]
        folders.sort(key=lambda path: (str(path) in needed, _changed_at(path)), reverse=True)
        for path in folders[KEPT_COUNT:]:
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.folder / task).glob(".incoming-*"):
            descriptor = _lock(path / "held.lock")
            if descriptor is not None:  # the process that brought it was killed
                shutil.rmtree(path, ignore_errors=True)
                os.close(descriptor)

    @contextlib.contextmanager
    def incoming(self, task: str) -> Iterator[Path]:
        """Gives a place for a version on its way, which is gone after the block, or with tidy() after this process."""
        folder = self.folder / task
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-", ignore_cleanup_errors=True) as made:
            descriptor = _lock(Path(made) / "held.lock")
            if descriptor is None:
                raise OSError(f"{made} was tidied away as it was made")
            try:
                yield Path(made) / "model"
            finally:
                os.close(descriptor)

    def state(self) -> State:
        """Reads what the watcher knows; that all is well when it has said nothing yet."""
        try:
            return State(**json.loads((self.folder / "state.json").read_text()))
        except (OSError, ValueError, TypeError):
            return State()

    def tell(self, state: State) -> None:
        """Writes down what the watcher knows, unless it is known."""
        if state != self.state() or not (self.folder / "state.json").exists():
            replace_file(self.folder / "state.json", asdict(state))

    def use(self, task: str) -> int:
        """Marks a task as served, until the descriptor that is returned is closed or the process ends."""
        descriptor = _open(self.folder / task / "users.lock")
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def used(self) -> Iterator[str]:
        """Finds the tasks that a replica of this node serves."""
        for path in sorted(self.folder.glob("*/users.lock")):
            descriptor = _lock(path)
            if descriptor is None:
                yield path.parent.name
            else:
                os.close(descriptor)

    def watch(self) -> int | None:
        """Takes the right to run this node's watcher; None while another process has it."""
        return _lock(self.folder / "watcher.lock")

    def _read(self, task: str, name: str) -> Stored | None:
        try:
            facts = json.loads((self.folder / task / name).read_text())
            version, run_id, digest = int(facts["version"]), str(facts["run_id"]), str(facts["digest"])
            folder = self.place(task, version, digest)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return Stored(task, str(folder), version, run_id, digest) if folder.is_dir() else None

    def _write(self, stored: Stored, name: str) -> None:
        facts = {"version": stored.version, "run_id": stored.run_id, "digest": stored.digest}
        replace_file(self.folder / stored.service / name, facts)


def absolute(uri: str) -> str:
    """Writes a registry's address so that it means the same in any working folder."""
    scheme = urlparse(uri).scheme
    for start in ("sqlite:///", "file:"):
        place = uri.removeprefix(start)
        if place != uri and not place.startswith("/") and ":memory:" not in place:
            return f"{start}{Path.cwd() / place}"
    return str(Path(uri).resolve()) if not scheme and ("/" in uri or Path(uri).is_dir()) else uri


def replace_file(path: Path, facts: dict[str, Any]) -> None:
    """Writes facts as JSON into a file beside its place and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, rough = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(facts, file)
            file.flush()
            os.fsync(descriptor)
        Path(rough).rename(path)
    except BaseException:
        Path(rough).unlink(missing_ok=True)
        raise


def _changed_at(path: Path) -> float:
    """When a folder was changed last; long ago for one that another process has removed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _plain(stored: Stored) -> Stored:
    return Stored(stored.service, stored.folder, stored.version, stored.run_id, stored.digest)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(path: Path) -> int | None:
    """Locks a file for this process alone; None when another has it."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
