"""Writes checkpoints beside the training: a copy on the step's thread, then hashing and the disk on another."""

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from pipelines import checkpoint, collectives, journal, sealed
from pipelines.mirror import Mirror
from pipelines.place import Place

BLOCKED_SHARE = 0.005
"""Largest share of a run's time that its steps may wait for copies at the ends of short epochs."""
WRITING_SHARE = 0.1
"""Largest share of a run's time that the writing may go on beside it, for the same checkpoints."""
PATIENCE_SECONDS = 30.0
"""Longest wait at a run's end for a storage that is slow or away."""


@dataclass(frozen=True)
class Keeping:
    """What becomes of a run's checkpoints."""

    keep: int = checkpoint.KEPT
    """How many of the newest are kept, besides the best."""
    storage: str = ""
    """Folder, s3:// or gs:// below which the run folder is copied; empty copies nowhere."""
    anyway: bool = False
    """Whether to go on from a checkpoint of other settings, code or data."""


USUAL = Keeping()


class Snapshot:
    """Copies of tensors in host memory that is used again; page-locked where they come from a GPU."""

    def __init__(self) -> None:
        """Holds nothing yet."""
        self._copies: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies tensors by name; the copies are whole when this returns, and change with the next call."""
        self._copies = {path: self._room(path, tensor) for path, tensor in tensors.items()}
        for path, tensor in tensors.items():
            self._copies[path].copy_(tensor, non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        return self._copies

    def _room(self, path: str, tensor: Tensor) -> Tensor:
        room = self._copies.get(path)
        if room is not None and (room.shape, room.dtype) == (tensor.shape, tensor.dtype):
            return room
        return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)


class Saver:
    """A run's checkpoints, of which rank 0 writes one at a time; the other ranks' savers do nothing."""

    def __init__(self, run_dir: Path, place: Place, emit: Callable[[dict[str, Any]], None], keeping: Keeping) -> None:
        """Deletes what dead processes left half-written."""
        self.folder, self.place, self.emit, self.keeping = run_dir / "checkpoints", place, emit, keeping
        self._journal = run_dir / journal.NAME
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._work: Callable[[], None] = lambda: None
        self._said: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._problem = ""
        self._next = 0.0
        self._mirror: Mirror | None = None
        if place.rank == 0:
            checkpoint.sweep(self.folder)
            if keeping.storage:
                self._mirror = Mirror(keeping.storage, run_dir, keeping.keep)

    def is_ready(self) -> bool:
        """Whether an epoch that just ended would be saved; rank 0's word, which it gives to all in a window."""
        return self.place.rank == 0 and not self._is_writing() and time.monotonic() >= self._next

    def save(self, step: int, state: dict[str, Any], score: float | None) -> None:
        """Copies the state, which may change when this returns, and begins to write; waits for the one before."""
        if self.place.rank:
            return
        began = time.perf_counter()
        self.wait()
        skeleton, tensors = checkpoint.take_apart(state)
        copies = self._snapshot.take(tensors)
        score = score if score is not None and math.isfinite(score) else None
        blocked = time.perf_counter() - began
        self._next = time.monotonic() + blocked / BLOCKED_SHARE
        self._work = lambda: self._write(step, skeleton, copies, score, blocked)
        self._thread = threading.Thread(target=self._work, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Waits for the checkpoint that is being written, and says what became of it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.report()

    def report(self) -> None:
        """Emits what was written, or could not be, since the last call; on the loop's own thread."""
        said = [self._said.get() for _ in range(self._said.qsize())]
        for event in said + (self._mirror.problems() if self._mirror else []):
            self.emit(event)

    def finish(self) -> None:
        """Waits until the newest checkpoint is on the disk; raises ValueError when it cannot be written."""
        self.wait()
        if self._problem:
            self._work()  # what filled the disk may be gone
            self.wait()
        if self._problem:
            raise ValueError(f"{self._problem}; make room, then `--resume {self.folder.parent}` goes on from the last")

    def __enter__(self) -> "Saver":
        """Begins a run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for what is being written, and copied to the storage, however the run ends."""
        self.wait()
        if self._mirror:
            self._mirror.close(PATIENCE_SECONDS, whole=kind is None)
            self.report()

    def latest(self, apart: Collection[str] = ()) -> tuple[dict[str, Any], list[str]] | None:
        """Reads the newest whole checkpoint, from the storage where that has a newer one, as rank 0 finds it.

        Every rank calls this and gets the same; the other ranks need not see rank 0's disk. Dicts of the state whose
        path, such as `average/weights`, is in `apart` are empty on all but rank 0, where they lie in the mapped file
        until they are read. Returns None when there is none, or the state and a sentence for each one passed over.
        Raises ValueError when none is whole, or none is left of those that the journal tells of.
        """
        self.wait()
        found: tuple[dict[str, Any], list[str]] | None = None
        refusal = ""
        if self.place.rank == 0:
            try:
                if self._mirror:
                    self._mirror.fetch_newer()
                found = checkpoint.latest(self.folder)
                if found and found[1]:
                    checkpoint.set_aside(self.folder)
                if found is None and not self.keeping.anyway:
                    self._check_none_lost()
            except ValueError as problem:
                refusal = str(problem)
        own = checkpoint.take_out(found[0] if found else {}, apart)
        skeleton, tensors = checkpoint.take_apart({"found": found, "refusal": refusal})
        device = torch.device(self.place.device)
        shared = collectives.share(skeleton, tensors, self.place.rank, self.place.world, device)
        answer = checkpoint.put_together(*shared)
        if answer["refusal"]:
            raise ValueError(answer["refusal"])
        if not answer["found"]:
            return None
        state, problems = answer["found"]
        checkpoint.put_back(state, own)
        return state, problems

    def _check_none_lost(self) -> None:
        """Raises ValueError when a checkpoint was written, or resumed from, since the run last went back by itself."""
        written = False
        for event in journal.Reader(self.folder.parent).new_events():
            if event["event"] == "guard" and event["rung"] == "roll back":
                written = False  # what came later was deleted, and what came before may have been
            elif event["event"] == "resume" or (event["event"] == "checkpoint" and "problem" not in event):
                written = True
        if written:
            also = f", nor can one be had from {self.keeping.storage}" if self.keeping.storage else ""
            raise ValueError(
                f"the run in {str(self.folder.parent)!r} has written checkpoints, and none is left there{also}; bring "
                "them back, start a new run, or add --resume-anyway to begin this one anew"
            )

    def forget_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, so that a run that goes back on purpose never resumes from them."""
        self.wait()
        if self.place.rank == 0:
            checkpoint.forget_after(self.folder, step)
            if self._mirror:
                self._mirror.forget_after(step)

    def _is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _write(self, step: int, skeleton: Any, tensors: dict[str, Tensor], score: float | None, blocked: float) -> None:
        """Runs on the writer's thread; whatever goes wrong there is said on the loop's."""
        began = time.perf_counter()
        try:
            if self._journal.exists():  # else the machine's end could leave a checkpoint of steps that nobody heard of
                sealed.sync(self._journal)
            checkpoint.write_parts(self.folder, step, skeleton, tensors, score, self.keeping.keep)
            self._problem = ""
        except Exception as problem:
            self._problem = f"the checkpoint of step {step} cannot be written below {str(self.folder)!r} ({problem})"
        took = time.perf_counter() - began
        self._next = max(self._next, time.monotonic() + took / WRITING_SHARE)
        event = {"event": "checkpoint", "step": step, "blocked_seconds": blocked, "seconds": took}
        self._said.put(event | ({"problem": self._problem} if self._problem else {}))
        if self._mirror and not self._problem:
            self._mirror.wake()
