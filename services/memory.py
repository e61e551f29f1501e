"""Keeps a server's memory in order: a burst's goes back to the system, and the collector leaves the models alone."""

import asyncio
import contextlib
import ctypes
import gc
import resource
from pathlib import Path

LOOK_S = 5.0
"""Seconds between two looks."""
GROWTH_BYTES = 16 << 20
"""What a process may grow by before it is looked through for pages that nothing uses, which glibc keeps."""
LOOKS = 6
"""How many times, as a burst may still be going on."""


class Memory:
    """Looks now and then whether the process has grown; all methods are for the event loop's thread."""

    def __init__(self, look_s: float = LOOK_S) -> None:
        """Prepares; start() begins to look."""
        self._look_s = look_s
        self._task: asyncio.Task[None] | None = None
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def start(self) -> None:
        """Takes what is in memory now out of the collector's sight, and begins to look.

        A full collection that goes through torch's half a million objects stops all calls for a tenth of a second.
        """
        gc.collect()
        gc.freeze()
        if self._trim is not None:
            self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Stops."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _look(self) -> None:
        assert self._trim is not None
        least, looks = resident_bytes(), 0
        while True:
            await asyncio.sleep(self._look_s)
            if resident_bytes() > least + GROWTH_BYTES:
                await asyncio.to_thread(self._trim, 0)  # tens of milliseconds, without the interpreter's lock
                looks += 1
            if looks == LOOKS:  # it stays
                least, looks = resident_bytes(), 0
            least = min(least, resident_bytes())


def resident_bytes() -> int:
    """Reads how much memory of the machine this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
