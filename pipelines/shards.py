"""Columns of numbers on disk, written piece by piece and mapped into memory, so that they may be larger than it."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines import sealed

FACTS = "facts.json"
LIMIT, USUAL_GB = "EAGERLY_STREAMS_GB", 100.0
"""The variable that says how many gigabytes are kept, beyond which only what a process uses is, and its default."""
ROUGH = ".rough"
"""The end of the names of folders that are being made, or removed."""
_MORE_ROOM = "free some of it, or name a folder of another disk with EAGERLY_HOME"


class Writer:
    """Appends arrays to columns, each a file of plain numbers; a context, which closes the files in any case."""

    def __init__(self, folder: Path) -> None:
        """Writes below a folder that is there."""
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self.counts: dict[str, int] = {}
        self.kinds: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Has nothing to open yet."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Closes what `close` did not."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # what cannot be written is what is being raised
                file.close()

    def append(self, column: str, values: NDArray[Any]) -> None:
        """Adds numbers to the end of a column."""
        if column not in self._files:
            self._files[column] = (self._folder / f"{column}.bin").open("wb")
            self.counts[column], self.kinds[column] = 0, str(values.dtype)
        assert str(values.dtype) == self.kinds[column], f"{column} is of {self.kinds[column]}, not of {values.dtype}"
        self._files[column].write(values.tobytes())
        self.counts[column] += len(values)

    def close(self, facts: Mapping[str, Any]) -> None:
        """Ends the columns, and writes what else is known of them."""
        for file in self._files.values():
            file.close()
        about = {"facts": dict(facts), "counts": self.counts, "kinds": self.kinds}
        (self._folder / FACTS).write_text(json.dumps(about, sort_keys=True), encoding="utf-8")


class _Use:
    """A lock on a folder, which several processes may have; freed with the last that refers to it."""

    def __init__(self, folder: Path) -> None:
        """Takes the lock."""
        self._file = os.open(folder / FACTS, os.O_RDONLY)
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def __del__(self) -> None:
        """Frees the lock."""
        if hasattr(self, "_file"):
            os.close(self._file)


class _Mapped(np.memmap):
    """Numbers on disk, in use as long as a tensor has them."""

    use: _Use | None = None


class Shards:
    """Columns that were written, each as a tensor whose numbers are read from disk when they are used."""

    def __init__(self, folder: Path) -> None:
        """Opens a folder, which stays as long as one of its columns is mapped by a process of this machine.

        Raises ValueError when a file has not the length that it was written with.
        """
        self.folder = folder
        self._use = _Use(folder)
        about = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        self.facts: dict[str, Any] = about["facts"]
        self._counts, self._kinds = about["counts"], about["kinds"]
        for column, count in self._counts.items():
            size = (folder / f"{column}.bin").stat().st_size
            if size != count * getattr(torch, self._kinds[column]).itemsize:
                raise ValueError(f"{column!r} in {str(folder)!r} has {size} bytes; delete the folder to make it again")

    def column(self, name: str, kind: torch.dtype) -> Tensor:
        """Maps a column; an absent one is empty."""
        if not self._counts.get(name):
            return torch.empty(0, dtype=kind)
        assert self._kinds[name] == str(kind).removeprefix("torch."), f"{name} is of {self._kinds[name]}"
        numbers: Any = _Mapped(self.folder / f"{name}.bin", self._kinds[name], "r")  # only such may outgrow memory
        numbers.use = self._use
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing may be written to it, which nobody does
            return torch.from_numpy(numbers)


def check_room(folder: Path, needed: int, what: str, way: str) -> None:
    """Raises ValueError when the disk of a folder has not as many free bytes as are needed, saying for what.

    way: what else can be done about it.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        where = f"in {str(folder.parent)!r}, where {_shown(free)} are free"
        raise ValueError(f"{what} need {_shown(needed)} {where}; {_MORE_ROOM}, {way}")


def cached(key: str, fill: Callable[[Path], None]) -> Shards:
    """Opens the columns of a key, made by `fill` if no process of this machine has made them yet.

    They lie in $EAGERLY_HOME/streams, or in ~/.eagerly/streams. New ones end those that were used longest ago, beyond
    $EAGERLY_STREAMS_GB, and that no process of this machine uses. Raises ValueError when the disk is full.
    """
    limit = _limit()
    home = Path(os.environ.get("EAGERLY_HOME") or Path.home() / ".eagerly") / "streams"
    home.mkdir(parents=True, exist_ok=True)
    folder = home / hashlib.sha256(key.encode()).hexdigest()
    with _alone(home / f"{folder.name}.lock"):
        if not folder.exists():
            _clear(folder)  # of what a process left that was killed
            try:
                sealed.write(folder, fill)
            except OSError as problem:
                if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise ValueError(f"the disk of {str(home)!r} is full; {_MORE_ROOM}") from problem
            finally:
                _clear(folder)
            _trim(home, limit, folder)
        now = time.time_ns()
        os.utime(folder, ns=(now, now))
        return Shards(folder)


def _limit() -> float:
    """Reads how many bytes are kept."""
    given = os.environ.get(LIMIT) or str(USUAL_GB)
    try:
        limit = float(given)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise ValueError(f"{LIMIT} is {given!r}; it must be a number of gigabytes, 0 or more")
    return limit * 1e9


def _trim(home: Path, limit: float, spared: Path) -> None:
    """Removes what was used longest ago, beyond so many bytes, and what killed processes left."""
    found: list[tuple[int, int, Path]] = []
    for folder in home.iterdir():
        with contextlib.suppress(OSError):  # another process trims too
            if folder.name.endswith(ROUGH):
                _remove(folder, home / f"{folder.name.split('.')[1]}.lock")
            elif folder.is_dir():
                size = sum(path.stat().st_size for path in folder.iterdir())
                found.append((folder.stat().st_mtime_ns, size, folder))
    for _, size, folder in sorted(found, reverse=True):
        limit -= size
        if limit < 0 and folder != spared and _remove(folder, home / f"{folder.name}.lock"):
            limit += size


def _remove(folder: Path, lock: Path) -> bool:
    """Removes a folder that no process makes or uses, and says whether it did."""
    try:
        with _alone(lock, fcntl.LOCK_NB):
            if not folder.name.endswith(ROUGH):
                with (folder / FACTS).open("r+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    folder = folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}{ROUGH}"))
            shutil.rmtree(folder)
    except OSError:  # it is in use, gone, or another user's
        return False
    return True


def _clear(folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}.*{ROUGH}"):
        shutil.rmtree(left)


def _shown(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


@contextmanager
def _alone(path: Path, way: int = 0) -> Iterator[None]:
    """Lets one process of this machine in at a time; with LOCK_NB, raises BlockingIOError while another is in."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | way)
        yield
