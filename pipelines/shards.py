"""Columns of numbers on disk, written piece by piece and mapped into memory, so that they may be larger than it."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines import sealed

FACTS = "facts.json"


class Writer:
    """Appends arrays to columns, each a file of plain numbers."""

    def __init__(self, folder: Path) -> None:
        """Writes below a folder that is there."""
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self.counts: dict[str, int] = {}
        self.kinds: dict[str, str] = {}

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
        return torch.from_file(str(self.folder / f"{name}.bin"), shared=False, size=self._counts[name], dtype=kind)


def cached(key: str, fill: Callable[[Path], None]) -> Shards:
    """Opens the columns of a key, made by `fill` if no process of this machine has made them yet.

    They lie in $EAGERLY_HOME/streams, or in ~/.eagerly/streams.
    """
    home = Path(os.environ.get("EAGERLY_HOME") or Path.home() / ".eagerly") / "streams"
    home.mkdir(parents=True, exist_ok=True)
    folder = home / hashlib.sha256(key.encode()).hexdigest()
    with _alone(home / f"{folder.name}.lock"):
        if not folder.exists():
            try:
                sealed.write(folder, fill)
            finally:
                for left in home.glob(f".{folder.name}.*.rough"):
                    shutil.rmtree(left)
    return Shards(folder)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lets one process of this machine in at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
