"""Has gRPC free what it keeps for a call that was given up, which grpc.aio 1.85 never does (grpc/grpc#43360).

grpc.aio frees a batch of operations when the coroutine that awaits the batch goes on. One that was cancelled never goes
on, and one whose batch has failed goes on elsewhere: a caller who gives up just before the reply is sent costs the
server 870 bytes for good. Here a batch is seen to its end by a coroutine of its own, which nobody cancels.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any

import grpc
from grpc._cython import cygrpc

log = logging.getLogger(__name__)

LEAKING = "1.85."
"""What the versions of gRPC begin with for which this is needed, and known to work."""


class Batch:
    """A batch of operations; to gRPC's coroutine it is the loop, and the future that the coroutine awaits.

    It is made twice a call, and written to cost little.
    """

    __slots__ = ("awaited", "coroutine", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Prepares."""
        self.loop = loop
        self.awaited = loop.create_future()
        """Ends when the batch does; may be cancelled."""
        self.coroutine: Iterator[None] = iter(())
        """What is left of gRPC's coroutine, which reads what was received and frees everything."""

    def create_future(self) -> "Batch":
        """Gives what the coroutine awaits; part of a loop."""
        return self

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        """Hears from gRPC, on the thread of any loop that reads its events; part of a loop."""
        if asyncio._get_running_loop() is self.loop:
            callback(*args)
        else:
            self.loop.call_soon_threadsafe(callback, *args)

    def cancelled(self) -> bool:
        """Says that the batch's end is waited for, always; part of a future."""
        return False

    def __await__(self) -> Generator[None, None, None]:
        """Waits for the end, and never raises; part of a future."""
        yield

    def set_result(self, result: None) -> None:
        """Ends the batch; part of a future."""
        next(self.coroutine, None)
        if not self.awaited.cancelled():
            self.awaited.set_result(result)

    def set_exception(self, problem: Exception) -> None:
        """Ends a batch that has failed; part of a future."""
        next(self.coroutine, None)
        if not self.awaited.cancelled():
            self.awaited.set_exception(problem)


def free_abandoned() -> None:
    """Sees to it for all of this process; does nothing for a gRPC that is not known to need it."""
    if not grpc.__version__.startswith(LEAKING):
        log.debug("gRPC %s is taken to free its operations itself", grpc.__version__)
    elif cygrpc.execute_batch is _ORIGINAL:
        cygrpc.execute_batch = _execute_batch  # pyright: ignore[reportAttributeAccessIssue]


_ORIGINAL = cygrpc.execute_batch
_Close = cygrpc.ReceiveCloseOnServerOperation


def _execute_batch(call: Any, operations: tuple[Any, ...], loop: asyncio.AbstractEventLoop) -> Awaitable[None]:
    """Does what gRPC's own function does; raises what that raises for operations that it does not take."""
    if type(operations[0]) is _Close:  # of which each call has one, that always comes to its end
        return _ORIGINAL(call, operations, loop)
    batch = Batch(loop)
    batch.coroutine = _ORIGINAL(call, operations, batch).__await__()
    next(batch.coroutine)
    return batch.awaited
