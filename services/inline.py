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
"""Share of the newest batch in what is known of the time of its like."""
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
    count: int = 0
    """How many items they have."""
    weight: int = 0
    """What these weigh."""
    deadline: float = float("inf")
    """When the first of the callers gives up, on the clock of time.monotonic()."""

    def add(self, call: Call) -> None:
        """Adds a call."""
        self.calls.append(call)
        self.count += call.count
        self.weight += call.weight
        self.deadline = min(self.deadline, call.deadline)


@dataclass
class Usual:
    """What batches of about the same weight take."""

    weight: float
    seconds: float


class Inline:
    """What is known of a model's time, and of its callers; for one thread at a time."""

    def __init__(self, weigh: Callable[[Any], int]) -> None:
        """Begins without knowing anything, so that the first batches are the thread's.

        weigh: says how many times as long as the quickest an input takes at the most; 0 of one that may take any time.
        """
        self._weigh = weigh
        self._crowd = Crowd()
        self._known: dict[int, Usual] = {}
        """By the power of two that the weight is below."""

    def weigh(self, inputs: list[Any]) -> int:
        """Gives what a call's inputs weigh together; 0 when one of them may take any time."""
        if len(inputs) == 1:
            return self._weigh(inputs[0])
        weights = [self._weigh(one) for one in inputs]
        return sum(weights) if all(weights) else 0

    def learn(self, weight: int, seconds: float, whole: bool = True) -> None:
        """Notes what a batch took without waiting for anything.

        whole: whether all of it was computed; if not, it would have taken longer yet.
        """
        usual = self._known.get(weight.bit_length())
        if usual is None:
            if whole or seconds > LONGEST_S:
                self._known[weight.bit_length()] = Usual(weight, seconds)
        elif whole or seconds > usual.seconds:
            share = (
                1.0 if usual.seconds <= LONGEST_S < seconds else WEIGHT
            )  # what held the loop up does not do so twice
            usual.weight += share * (weight - usual.weight)
            usual.seconds += share * (seconds - usual.seconds)

    def foretell(self, weight: int) -> float:
        """Gives the seconds that a batch takes at the most, by batches of about its weight or the nearest ones.

        More takes no less, and twice as much at most twice as long. Infinite while nothing is known.
        """
        near = self._known.get(weight.bit_length())
        if near is not None:
            return near.seconds * max(1.0, weight / near.weight)
        usuals = self._known.values()
        return min((usual.seconds * max(1.0, weight / usual.weight) for usual in usuals), default=float("inf"))

    def takes(self, weight: int) -> bool:
        """Says whether so much is foretold to be computed soon enough."""
        return self.foretell(weight) <= LONGEST_S

    def waits(self, near: Near, now: float) -> bool:
        """Says whether to wait for more calls than those; asked once a turn of the loop until it says no."""
        first, last = near.calls[0].submitted, near.calls[-1].submitted
        is_quiet = now - last >= min(MOST_QUIET_S, max(LEAST_QUIET_S, QUIET * self.foretell(1)))
        is_over = now - first >= PATIENCE_S or now + PATIENCE_S >= near.deadline or not self.takes(2 * near.weight)
        if not (is_quiet or is_over or self._crowd.is_here(len(near.calls))):
            return True
        self._crowd.came(len(near.calls))
        return False
