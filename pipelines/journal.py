"""The journal of a run: one JSON object a line, from which the tracker and the progress bar read."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "journal.jsonl"
LOAD = "load.jsonl"
"""A journal beside it, of this machine's load and memory, which the recorder writes."""
Event = dict[str, Any]


class Journal:
    """Appends events to a run's journal; each line reaches the file before `append` returns, unless the disk is full.

    What a full disk does not take waits in memory, and goes first when there is room again.
    """

    def __init__(self, run_dir: Path, name: str = NAME) -> None:
        """Opens the journal for appending; a line that a crash cut short is ended first."""
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / name
        torn = path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._waiting = b"\n" if torn else b""

    def append(self, event: Event) -> None:
        """Writes one event, with the time (seconds since 1970)."""
        line = json.dumps({**event, "time": time.time()}, allow_nan=True, separators=(",", ":")) + "\n"
        self._waiting += line.encode()
        with contextlib.suppress(OSError):
            self._write()

    def close(self) -> None:
        """Makes sure that everything is on the disk, and closes. Raises OSError when that is full."""
        try:
            self._write()
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def _write(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[os.write(self._file, self._waiting) :]


def note(run_dir: Path, event: Event) -> None:
    """Writes one event into a run's journal, for one who has no more to say."""
    journal = Journal(run_dir)
    journal.append(event)
    journal.close()


class Reader:
    """Reads a journal from where it stopped the last time, while another process writes it."""

    def __init__(self, run_dir: Path, name: str = NAME, offset: int = 0) -> None:
        """Starts at the first line, or at a line that begins at `offset` bytes; the file may not exist yet."""
        self._path = run_dir / name
        self._offset = offset

    def skip(self) -> None:
        """Passes over what is there already, as a resumed run's earlier events."""
        self._offset = size(self._path.parent)

    def new_events(self) -> Iterator[Event]:
        """Yields the events written since the last call; half-written lines wait, torn lines are passed over."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                yield event


def size(run_dir: Path) -> int:
    """Gives a journal's length in bytes; 0 where there is none."""
    path = run_dir / NAME
    return path.stat().st_size if path.exists() else 0


def has_begun(run_dir: Path) -> bool:
    """Whether a run came to its training, or a search to a trial: before that there is nothing to keep."""
    return any(event["event"] in ("start", "trial") for event in Reader(run_dir).new_events())


def has_ended(run_dir: Path, offset: int) -> bool:
    """Whether a run came to its end in what its journal holds from `offset` bytes on."""
    return any(event["event"] == "test" for event in Reader(run_dir, offset=offset).new_events())
