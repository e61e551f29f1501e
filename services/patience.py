"""Work on the main thread that is given up when it takes too long."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Overdue(Exception):
    """What is raised in work that took too long."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises Overdue in the block when it takes too long; for the main thread, whose blocking calls a signal ends."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Overdue(f"no answer within {seconds:.0f} s")

    handler = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # again, should something swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)
