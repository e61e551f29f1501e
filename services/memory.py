"""Keeps a server's memory in order: a burst's goes back to the system, and the collector leaves the models alone."""

import asyncio
import contextlib
import ctypes
import gc
import resource
import time
from pathlib import Path
from typing import ClassVar

ENVIRONMENT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "32", "MALLOC_ARENA_MAX": "2"}
"""Has oneDNN keep the kernels of so many layers and shapes instead of 1,024, and PyTorch so many of each kind instead
of 1,024 beside them, in each thread that computes: batches and texts of all lengths fill the one in half an hour with
some 50 MB, the other with as much; with fewer a batch takes no longer. Has glibc make two heaps instead of eight for
each core: threads fill theirs with holes, 50 to 80 MB after minutes. Holds for a process that is started with it."""
LOOK_S = 5.0
"""Seconds between two looks."""
GROWTH_BYTES = 16 << 20
"""What a process may grow by before it is looked through for pages that nothing uses, which glibc keeps."""
COLLECT_S = 15.0
"""Seconds between two full collections, which stop all calls: for 80 ms while 10,000 are in flight. Young collections
go on, and find nearly all that calls leave."""
NEVER = 2**31 - 1
"""So many young collections must come before a full one of the collector's own accord."""
LOOKS = 6
"""How many times, as a burst may still be going on."""


class Memory:
    """Looks now and then whether the process has grown; all methods are for the event loop's thread."""

    _usual: ClassVar[list[tuple[int, int, int]]] = []
    """The collector's thresholds as each that runs in this process found them, the usual ones first."""

    def __init__(self, look_s: float = LOOK_S, collect_s: float = COLLECT_S) -> None:
        """Prepares; start() begins to look."""
        self._look_s, self._collect_s = look_s, collect_s
        self._task: asyncio.Task[None] | None = None
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def start(self) -> None:
        """Takes what is in memory now out of the collector's sight, and begins to look.

        A full collection that goes through torch's half a million objects stops all calls for a tenth of a second.
        """
        gc.collect()
        gc.freeze()
        self._usual.append(gc.get_threshold())
        gc.set_threshold(*self._usual[0][:2], NEVER)
        self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Stops; the last that runs leaves the collector as it was before the first."""
        task, self._task = self._task, None
        if task is not None:
            found = self._usual.pop()
            if not self._usual:
                gc.set_threshold(*found)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _look(self) -> None:
        least, looks, collected = resident_bytes(), 0, time.monotonic()
        while True:
            await asyncio.sleep(self._look_s)
            if time.monotonic() > collected + self._collect_s:
                gc.collect()
                collected = time.monotonic()
            if self._trim is not None and resident_bytes() > least + GROWTH_BYTES:
                await asyncio.to_thread(self._trim, 0)  # tens of milliseconds, without the interpreter's lock
                looks += 1
            if looks == LOOKS:  # it stays
                least, looks = resident_bytes(), 0
            least = min(least, resident_bytes())


def resident_bytes() -> int:
    """Reads how much memory of the machine this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
