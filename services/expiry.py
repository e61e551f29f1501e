"""Keeps a gauge of when the certificate in force ends, so that an alert can come before the end does."""

import asyncio
import contextlib
from collections.abc import Callable

from services.metrics import Value

LOOK_S = 5.0
"""Seconds between two looks at the files: a renewed certificate shows though no client has connected since."""


class Expiry:
    """Looks now and then when the certificate ends; all methods are for the event loop's thread."""

    def __init__(self, ends: Callable[[], float], gauge: Value) -> None:
        """Sets the gauge; start() begins to look.

        ends: gives the end as Unix time; it may read files, and is called on a thread.
        """
        self._ends = ends
        self._gauge = gauge
        self._task: asyncio.Task[None] | None = None
        gauge.set(ends())

    def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Stops."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._gauge.set(await asyncio.to_thread(self._ends))
