"""Columns of numbers on disk, written piece by piece and mapped into memory, so that they may be larger than it."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
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


class Shards:
    """Columns that were written, each as a tensor whose numbers are read from disk when they are used."""

    def __init__(self, folder: Path) -> None:
        """Opens a folder. Raises ValueError when a file has not the length that it was written with."""
        self.folder = folder
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
        numbers = np.memmap(self.folder / f"{name}.bin", self._kinds[name], "r")  # only such may outgrow memory
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

    They lie in $EAGERLY_HOME/streams, or in ~/.eagerly/streams. Raises ValueError when the disk is full.
    """
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
    return Shards(folder)


def _clear(folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}.*.rough"):
        shutil.rmtree(left)


def _shown(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lets one process of this machine in at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
