"""When the event loop computes a batch itself instead of handing it to the model's thread, and whom it waits for.

A thread must be given Python's lock after each step of a batch, while the loop wants it to read and answer calls: a
small network waits for longer than it computes, and so do those who call. Work that is over within milliseconds is
therefore done by the loop, between two of its turns.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.batches import Call

LONGEST_S = 0.005
"""Most time that a batch may be foretold to take. As long can a thread keep Python's lock from others."""
PATIENCE_S = 0.008
"""Longest that a call waits for others to come."""
QUIET = 0.75
"""Share of a lone item's time for which no call must have come before a batch is begun that more may come for: about
as much is saved by an item that is computed with others."""
LEAST_QUIET_S, MOST_QUIET_S = 0.0002, 0.001
"""What that share is kept between; gRPC hands calls over one by one, some 0.1 ms apart."""
WEIGHT = 0.2
"""Share of the newest batch in what is known of the model's time."""
FADING = 16
"""Batches over which a crowd is forgotten, and after which a try is made to wait for more calls than are expected."""


class Crowd:
    """How many calls come together at the most, as it was lately.

    Nothing tells how many are on their way. A lone caller, who waits for an answer before the next call, must not wait
    for others; of many callers each would be computed alone if none did.
    """

    def __init__(self) -> None:
        """Begins with a lone caller."""
        self._size = 1.0
        self._batches = 0

    def is_here(self, count: int) -> bool:
        """Says whether so many calls are all that are expected."""
        return count > self._size - 0.5 and self._batches % FADING > 0

    def came(self, count: int) -> None:
        """Notes how many calls a batch was begun with."""
        self._batches += 1
        self._size = max(count, self._size + (count - self._size) / FADING)


@dataclass
class Near:
    """Calls that wait for the loop to compute them."""

    calls: list[Call] = field(default_factory=list)
    size: int = 0
    """How many items they have."""
    deadline: float = float("inf")
    """When the first of the callers gives up, on the clock of time.monotonic()."""

    def add(self, call: Call) -> None:
        """Adds a call."""
        self.calls.append(call)
        self.size += call.count
        self.deadline = min(self.deadline, call.deadline)


class Inline:
    """What is known of a model's time, and of its callers; for one thread at a time."""

    def __init__(self, is_plain: Callable[[Any], bool]) -> None:
        """Begins without knowing anything, so that the first batches are the thread's.

        is_plain: says of an input whether it takes as long as others do.
        """
        self.is_plain = is_plain
        self._crowd = Crowd()
        self._first_s = 0.0
        """What a batch of one item takes; 0 while nothing is known."""
        self._item_s = 0.0
        """What each item besides takes."""

    def learn(self, size: int, seconds: float) -> None:
        """Notes what a batch of plain inputs took without waiting for anything."""
        if not self._first_s:
            self._first_s, self._item_s = seconds, seconds / size
        elif size == 1 or seconds < self._first_s:
            self._first_s += WEIGHT * (seconds - self._first_s)
        else:
            self._item_s += WEIGHT * (max(0.0, seconds - self._first_s) / (size - 1) - self._item_s)

    def takes(self, size: int) -> bool:
        """Says whether so many items are foretold to be computed soon enough."""
        return 0 < self._first_s + (size - 1) * self._item_s <= LONGEST_S

    def waits(self, near: Near, now: float) -> bool:
        """Says whether to wait for more calls than those; asked once a turn of the loop until it says no."""
        first, last = near.calls[0].submitted, near.calls[-1].submitted
        is_quiet = now - last >= min(MOST_QUIET_S, max(LEAST_QUIET_S, QUIET * self._first_s))
        is_over = now - first >= PATIENCE_S or now + PATIENCE_S >= near.deadline or not self.takes(2 * near.size)
        if not (is_quiet or is_over or self._crowd.is_here(len(near.calls))):
            return True
        self._crowd.came(len(near.calls))
        return False
