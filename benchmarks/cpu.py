"""CPU time that servers use, from /proc/PID/stat of every process that belongs to them."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import psutil

from benchmarks.load import Figures


class Tree:
    """A process and all that it started, now or later."""

    def __init__(self, pid: int, without: tuple[int, ...] = ()) -> None:
        """Takes the first process, and those under it that do not belong to the server, with all they start."""
        self._pid = pid
        self._without = without

    def measured(self, load: Callable[[], Figures]) -> Figures:
        """Runs a load and adds to its figures the CPU time a call; a load generator has ended by then, so is left out.

        Ticks of the kernel are 10 ms: of a run of four seconds, 1 % at most. Raises ValueError if it answered nothing.
        """
        before = self._seconds()
        figures = load()
        if not figures.count:
            raise ValueError("no call was answered within a run; give runs longer, by --seconds")
        used_s = sum(seconds - before.get(pid, 0.0) for pid, seconds in self._seconds().items())
        return replace(figures, cpu_us=1e6 * used_s / figures.count)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Keeps all its processes from running while the block runs: an idle server may still take CPU time."""
        family = family_of(self._pid)
        for process in family:
            _signal(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in reversed(family):
                _signal(process, signal.SIGCONT)

    def _seconds(self) -> dict[int, float]:
        """CPU time of each living process of the server, user's and system's."""
        apart = {child.pid for pid in self._without for child in family_of(pid)}
        return {process.pid: _used_s(process) for process in family_of(self._pid) if process.pid not in apart}


def family_of(pid: int) -> list[psutil.Process]:
    """Lists a process and all under it; empty once it is gone."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _used_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system
