"""How long is waited: for work on the main thread, and until what has failed is tried again."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

MOST_DOUBLINGS = 16


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


def pause_s(first_s: float, failures_count: int, longest_s: float) -> float:
    """Gives the seconds until the next try, which each failure doubles; never more than the longest."""
    return min(first_s * 2 ** min(failures_count, MOST_DOUBLINGS), longest_s)
