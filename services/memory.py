"""Keeps a server's memory in order: a burst's goes back to the system, and the collector leaves the models alone."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import math
import resource
import time
from pathlib import Path
from typing import ClassVar

log = logging.getLogger(__name__)

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
        self._least_bytes, self._looks_count, self._collected = math.inf, 0, 0.0

    def start(self) -> None:
        """Takes what is in memory now out of the collector's sight, and begins to look.

        A full collection that goes through torch's half a million objects stops all calls for a tenth of a second.
        """
        gc.collect()
        gc.freeze()
        self._usual.append(gc.get_threshold())
        gc.set_threshold(*self._usual[0][:2], NEVER)
        self._collected = time.monotonic()
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
        while True:
            try:
                await self._tend()
            except (OSError, RuntimeError) as problem:  # too many open files, or no thread to be had
                log.warning("the server's memory could not be looked at: %s", problem)
            await asyncio.sleep(self._look_s)

    async def _tend(self) -> None:
        """Looks once."""
        if time.monotonic() > self._collected + self._collect_s:
            gc.collect()
            self._collected = time.monotonic()
        if self._trim is not None and resident_bytes() > self._least_bytes + GROWTH_BYTES:
            await asyncio.to_thread(self._trim, 0)  # tens of milliseconds, without the interpreter's lock
            self._looks_count += 1
        if self._looks_count == LOOKS:  # it stays
            self._least_bytes, self._looks_count = resident_bytes(), 0
        self._least_bytes = min(self._least_bytes, resident_bytes())


def resident_bytes() -> int:
    """Reads how much memory of the machine this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
