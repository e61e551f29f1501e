"""Copies a run's folder to a storage as the run goes, and never in training's way."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pipelines import checkpoint, journal, sealed
from pipelines.storage import ABOUT, ANSWER_SECONDS, Storage, identify, keep_apart, sentence

RETRY_SECONDS = 5.0
LAST_ATTEMPTS, LAST_SECONDS = 3, 0.5
"""How often, and after what pause, a storage that is away is asked at a run's end."""
FINISHED = "artifact"
LEAVING = ".leaving"
"""Where a checkpoint is held in the run's folder while it is copied."""


class Mirror:
    """Copies a run's folder to a storage from a thread of its own: journal and description, then checkpoints."""

    def __init__(self, address: str, run_dir: Path, keep: int = checkpoint.KEPT) -> None:
        """Begins when it is first woken. Raises ValueError for an address that cannot be one.

        keep: how many of the newest checkpoints stay there, besides the best and those that are here.
        """
        self._storage, self._run_dir, self._name = Storage(address), run_dir, run_dir.name
        self._idle = self._storage.holds(run_dir)
        self._woken, self._closing, self._whole = threading.Event(), threading.Event(), False
        self._thread: threading.Thread | None = None
        self._said: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._problem = ""
        self._ours = self._has_looked = False
        self._pushed: dict[str, tuple[int, int, int]] = {}
        self._keep, self._scores = keep, dict[str, float | None]()

    def wake(self) -> None:
        """Says that there is something new to copy."""
        if not self._idle:
            self._woken.set()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._follow, name="storage", daemon=True)
                self._thread.start()

    def problems(self) -> list[dict[str, Any]]:
        """Gives the events since the last call: the storage went away, or came back."""
        return [self._said.get() for _ in range(self._said.qsize())]

    def close(self, patience_seconds: float, whole: bool) -> None:
        """Copies what is new, the model too if the run is whole; gives up when that takes too long."""
        self._whole = whole
        self._closing.set()
        self.wake()
        if self._thread is not None:
            self._thread.join(patience_seconds)
            if self._thread.is_alive():
                self._say(f"is slow: after {patience_seconds:.0f} s it does not have everything")

    def forget_after(self, step: int) -> None:
        """Copies what is left here, and deletes the checkpoints of later steps there."""
        self.close(LAST_ATTEMPTS * ANSWER_SECONDS, whole=False)
        try:
            for name in [] if self._idle else self._there():
                if checkpoint.step_of(name) > step:
                    self._storage.remove(f"{self._name}/checkpoints/{name}")
        except OSError as problem:
            self._say(sentence(problem))
        self._scores.clear()
        self._closing.clear()

    def fetch_newer(self) -> None:
        """Brings the newest whole checkpoint here if it is newer than the whole ones here."""
        if self._idle:
            return
        folder = self._run_dir / "checkpoints"
        newest = max((checkpoint.order(place.name) for place in checkpoint.whole(folder)), default=(-1, 0))
        try:
            self._check_ours()
            there = [name for name, whole in self._there().items() if whole and checkpoint.order(name) > newest]
            for name in sorted(there, key=checkpoint.order, reverse=True):
                with contextlib.suppress(sealed.Corrupt):
                    shutil.rmtree(folder / name, ignore_errors=True)
                    self._storage.fetch_sealed(f"{self._name}/checkpoints/{name}", folder / name)
                    return
        except OSError as problem:
            self._say(sentence(problem))

    def _follow(self) -> None:
        attempts_left = LAST_ATTEMPTS
        while attempts_left:
            self._woken.wait()
            self._woken.clear()
            closing = self._closing.is_set()
            try:
                self._copy()
                self._say("")
                if closing:
                    return
            except OSError as problem:
                self._say(sentence(problem))
                self._woken.set()
                attempts_left -= closing
                time.sleep(LAST_SECONDS) if closing else self._closing.wait(RETRY_SECONDS)
            except ValueError as problem:
                self._say(str(problem))
                return

    def _copy(self) -> None:
        """Makes the storage hold what is here; deletes there only what is older than a whole checkpoint there.

        What another machine left there is pruned as it is here: the best may be there alone.
        """
        self._check_ours()
        ready = checkpoint.steps(self._run_dir / "checkpoints")  # before the journal, which then tells of them all
        self._copy_files()
        self._copy_checkpoints(ready)
        if self._whole and (self._run_dir / FINISHED).is_dir():
            self._copy_artifact(f"{self._name}/{FINISHED}")

    def _copy_artifact(self, there: str) -> None:
        """Copies the model, once the one there is gone if that is another, as of a run that has gone on."""
        here, manifest = self._run_dir / FINISHED, f"{there}/{sealed.MANIFEST}"
        is_whole = sealed.MANIFEST in self._storage.files(there)
        if is_whole and self._storage.read(manifest) != (here / sealed.MANIFEST).read_bytes():
            self._storage.remove(there)
        self._storage.push_sealed(here, there)

    def _copy_files(self) -> None:
        """Copies what has changed since it was copied, or is not there any more as it was."""
        sizes = self._storage.sizes(self._name)
        if not self._has_looked and journal.NAME in sizes:
            self._keep_journal()
        self._has_looked = True
        for path in sorted(self._run_dir.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                about = path.stat()
                now = (about.st_ino, about.st_size, about.st_mtime_ns)
                if self._pushed.get(path.name) != now or sizes.get(path.name) != about.st_size:
                    self._storage.push(path, f"{self._name}/{path.name}")
                    self._pushed[path.name] = now

    def _keep_journal(self) -> None:
        """Keeps what the journal there tells and the one here does not, before that one takes its place."""
        if kept := keep_apart(self._storage, self._name, self._run_dir):
            place = f"{self._storage.address}/{self._name}"
            problem = f"the journal in {place!r} tells of more than the one here, and is kept as {kept} beside it"
            self._said.put({"event": "storage", "problem": problem})

    def _copy_checkpoints(self, ready: list[Path]) -> None:
        """Copies what lacks there, the newest first: a slow storage has few of them, and the one that counts."""
        folder, name_there = self._run_dir / "checkpoints", f"{self._name}/checkpoints"
        there = self._there()
        for place in reversed(ready):
            if not there.get(place.name):
                with self._held(place) as held:
                    if held is not None:
                        self._storage.push_sealed(held, f"{name_there}/{place.name}")
        if not (here := {place.name for place in checkpoint.steps(folder)}):
            return
        there = self._there()
        scores = {name: self._score(name) for name, whole in there.items() if whole}
        newest = max(map(checkpoint.order, scores), default=(-1, 0))
        for name in sorted(there.keys() - here - checkpoint.kept(scores, self._keep)):
            if checkpoint.order(name) < newest:
                self._storage.remove(f"{name_there}/{name}")

    def _score(self, name: str) -> float | None:
        """Reads the score of a whole checkpoint there, once."""
        if name not in self._scores:
            manifest = self._storage.read(f"{self._name}/checkpoints/{name}/{sealed.MANIFEST}")
            self._scores[name] = checkpoint.score(manifest)
        return self._scores[name]

    def _there(self) -> dict[str, bool]:
        """Lists the checkpoints there, and whether each is whole."""
        found = self._storage.names(f"{self._name}/checkpoints")
        return {name: whole for name, whole in found.items() if checkpoint.NAMED.fullmatch(name)}

    @contextlib.contextmanager
    def _held(self, place: Path) -> Iterator[Path | None]:
        """Gives a checkpoint that stays while it is copied, though it be pruned; None if that had begun before."""
        held = self._run_dir / LEAVING
        shutil.rmtree(held, ignore_errors=True)
        try:
            shutil.copytree(place, held, copy_function=_link)
            sealed.verify(held)
        except (OSError, sealed.Corrupt):
            if place.exists() and checkpoint.is_whole(place):
                raise
            yield None
        else:
            yield held
        finally:
            shutil.rmtree(held, ignore_errors=True)

    def _check_ours(self) -> None:
        """Raises ValueError when the storage holds another run of this name."""
        about = self._run_dir / ABOUT
        if self._ours or not about.exists() or ABOUT not in self._storage.files(self._name):
            return
        found = identify(self._storage.read(f"{self._name}/{ABOUT}"))
        if found is None:  # as a process leaves it that was killed while it copied: it is written anew
            return
        if found != identify(about.read_bytes()):
            address = f"{self._storage.address}/{self._name}"
            raise ValueError(f"{address!r} holds another run; give this one another name by --run-dir")
        self._ours = True

    def _say(self, problem: str) -> None:
        """Notes an event when the storage goes away or comes back, not at every attempt."""
        if bool(problem) != bool(self._problem):
            text = f"{self._storage.address!r} {problem}; training goes on, and copying is tried again"
            self._said.put({"event": "storage", "problem": text if problem else ""})
        self._problem = problem


def _link(source: str, target: str) -> None:
    """Gives a file a second name, or copies it where there are no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
