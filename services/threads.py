"""Threads for what may hang: a hanging one is left behind, and takes none of the few that asyncio.to_thread shares."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


class Worker(threading.Thread):
    """A thread whose end the event loop awaits without a second thread that waits for it."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        """Starts the thread; must be called on the running event loop."""
        super().__init__(target=work, name=name, daemon=True)
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self.start()

    def run(self) -> None:
        """Works, and says so when it ends, however it does."""
        try:
            super().run()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so that nobody waits
                self._loop.call_soon_threadsafe(self._over.set)

    async def ended(self) -> None:
        """Returns when the thread has ended and what it has scheduled on the loop has run."""
        await self._over.wait()
        self.join()


def begin(work: Callable[[], Result], name: str) -> Future[Result]:
    """Computes something on a thread of its own, which goes on when nobody waits for the result any more."""
    result: Future[Result] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as problem:
            result.set_exception(problem)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result
