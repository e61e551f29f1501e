"""The files of figures, and what becomes of a dead process's: gauges vanish, counts go to one file for all the dead.

So the folder does not grow with restarts. Whoever reads or buries holds the folder's lock. A process may be killed
while it buries: what it has put together is therefore first laid out in a folder of its own, whose renaming is the
moment from which it counts; whoever comes next finishes the rest. On a full disk the counts stay in their own files.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

_COUNTED = ("counter", "histogram")
_ALL = "0"
"""Stands for all the dead where files have a process id."""
ROOM_BYTES = 1 << 18
"""What a file takes of the disk at first: room for hundreds of values more than an endpoint starts with."""
_BESIDE_BYTES = 28
"""The most that a value takes in its file beside its key."""


class Ledger(MmapedDict):
    """Values in a file for which the disk has all the room: writing to a page that it lacks ends a process (SIGBUS)."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; raises OSError where the disk has no room for it."""
        _take(path, ROOM_BYTES)
        super().__init__(str(path))

    def _init_value(self, key: str) -> None:
        """Adds a key; raises OSError, and goes on with those it has, where the file must grow and cannot."""
        room = self._capacity
        while room < self._used + len(key.encode()) + _BESIDE_BYTES:
            room *= 2
        if room > self._capacity:
            _take(Path(self._fname), room)
        super()._init_value(key)


class Nowhere:
    """Stands for a file where the disk had no room for a key."""

    def read_value(self, key: str) -> tuple[float, float]:
        """Has nothing."""
        return 0.0, 0.0

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Keeps nothing."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, among processes and threads."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def mark_alive(folder: Path) -> int:
    """Says that this process is alive, as long as it keeps the descriptor that is returned."""
    starting = folder / f"starting_{os.getpid()}"
    descriptor = os.open(starting, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    starting.rename(folder / f"alive_{os.getpid()}")
    return descriptor


def alive_pids(folder: Path) -> set[int]:
    """Finds the processes that are alive."""
    return {int(alive.name.removeprefix("alive_")) for alive in folder.glob("alive_*") if not _is_dead(alive)}


def bury(folder: Path) -> None:
    """Takes the files of processes that are no longer alive away, and keeps what they counted; needs the lock."""
    _finish(folder)
    for stale in folder.glob("starting_*"):
        stale.unlink()  # whoever starts holds the lock, so this one was killed
    dead = [alive for alive in folder.glob("alive_*") if _is_dead(alive)]
    if not dead:
        return
    pids = [alive.name.removeprefix("alive_") for alive in dead]
    coffin = folder / "burying"
    shutil.rmtree(coffin, ignore_errors=True)
    try:
        _lay_out(folder, coffin, pids)
    except OSError:  # no room: what they counted stays where it is until there is
        shutil.rmtree(coffin, ignore_errors=True)
        for gauges in (file for pid in pids for file in folder.glob(f"gauge_*_{pid}.db")):
            gauges.unlink()
        return
    coffin.rename(folder / "buried")
    _finish(folder)


def _lay_out(folder: Path, coffin: Path, pids: list[str]) -> None:
    """Writes what the dead have counted, and who they are, into a folder of its own."""
    coffin.mkdir(mode=0o700)
    for kind in _COUNTED:
        _add_up([folder / f"{kind}_{pid}.db" for pid in (_ALL, *pids)], coffin / f"{kind}_{_ALL}.db")
    (coffin / "pids").write_text(" ".join(pids))


def _finish(folder: Path) -> None:
    """Puts the sums in their place and removes what is in them; may be done again from anywhere in between."""
    grave = folder / "buried"
    if not grave.is_dir():
        return
    left = grave / "pids"
    pids = left.read_text().split() if left.exists() else []
    for kind in _COUNTED:
        with contextlib.suppress(FileNotFoundError):
            (grave / f"{kind}_{_ALL}.db").rename(folder / f"{kind}_{_ALL}.db")
    for pid in pids:
        for file in (*folder.glob(f"*_{pid}.db"), folder / f"alive_{pid}"):
            file.unlink(missing_ok=True)
    left.unlink(missing_ok=True)
    grave.rmdir()


def _add_up(sources: list[Path], target: Path) -> None:
    """Writes the sum of the values that have the same key."""
    sums: dict[str, float] = {}
    for source in sources:
        if source.exists() and source.stat().st_size:  # empty when its process was killed as it made it
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(source)):
                sums[key] = sums.get(key, 0.0) + value
    if not sums:
        return
    file = Ledger(target)
    try:
        for key, value in sums.items():
            file.write_value(key, value, 0.0)
    finally:
        file.close()


def _take(path: Path, size: int) -> None:
    """Has the disk keep that many bytes for a file, or all of its own; raises OSError and takes none if it cannot."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        try:
            os.posix_fallocate(descriptor, 0, max(size, before))
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def _is_dead(alive: Path) -> bool:
    """Tries the lock that a living process holds; the process id alone may be a zombie's or used again."""
    try:
        descriptor = os.open(alive, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
