"""Whether the model's thread waits a moment for calls that are about to come, by what that has brought so far.

Callers who wait for an answer before they call again fall into two parts, one of which is computed while the other
waits. Where larger batches take less time an item, as with a GPU or a large network and few callers, waiting until all
are back answers more of them; where they do not, it only wastes time. So both are tried in turn and measured.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from services.inline import Crowd

SHARE = 0.1
"""Longest wait as a share of what the batch before took."""
LEAST_S, MOST_S = 0.0005, 0.008
"""Shorter is not worth a wait; longer is none."""
GAIN = 1.03
"""How many times as many items a second waiting must answer."""
RUN = 7
"""Batches until it is decided anew. The first of each is not measured, as callers find their new time; the others are
even in number, as callers in two parts make every other batch like."""
TRIES = 10
"""One of so many runs is spent on the other way."""
MEMORY = 0.8
"""What is left of a figure after each batch."""
LONGEST = 3.0
"""Most that a batch counts for, in means of those before: a machine's hiccup says nothing of waiting."""


@dataclass
class Rate:
    """Items and the seconds that they took, the newest counting most."""

    items: float = 0.0
    seconds: float = 0.0
    batches: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        """Adds a batch."""
        if self.batches:
            seconds = min(seconds, LONGEST * self.seconds / self.batches)
        self.items = MEMORY * self.items + count
        self.seconds = MEMORY * self.seconds + seconds
        self.batches = MEMORY * self.batches + 1

    @property
    def per_s(self) -> float:
        """Items a second; 0 while none is known."""
        return self.items / self.seconds if self.seconds else 0.0


class Gathering:
    """What waiting has brought; for the model's thread alone."""

    def __init__(self) -> None:
        """Begins without waiting."""
        self._waits = False
        self._rates = {False: Rate(), True: Rate()}
        self._crowd = Crowd()
        self._batches = 0
        self._began = self._ended = 0.0
        self._compute_s = 0.0

    def begins(self) -> None:
        """Notes that the first call of a batch is there."""
        self._began = time.monotonic()

    def patience_s(self, call_count: int, deadlines: Iterable[float]) -> float:
        """Says how long to wait for one more call beside so many; 0 when the batch is to be computed now.

        deadlines: when the callers give up, on the clock of time.monotonic(); read only where it might wait.
        """
        longest_s = min(MOST_S, SHARE * self._compute_s)
        if not self._waits or longest_s < LEAST_S or self._crowd.is_here(call_count):
            return 0.0
        now = time.monotonic()
        left_s = self._began + longest_s - now
        is_early = now + left_s + 2 * self._compute_s < min(deadlines, default=0.0)
        return left_s if left_s > 0 and is_early else 0.0

    def computed(self, call_count: int, size: int, compute_s: float) -> None:
        """Notes a batch that is done: calls, items and the seconds of its computation."""
        if not size:
            return
        self._batches += 1
        self._compute_s = compute_s
        if self._waits:
            self._crowd.came(call_count)
        idle_s, now = self._began - self._ended, time.monotonic()
        if self._batches % RUN != 1:
            # Callers who were all answered leave the thread idle until they are back, which waiting brings about.
            self._rates[self._waits].add(size, now - self._began + (idle_s if idle_s <= MOST_S else 0.0))
        self._ended = now
        if self._batches % RUN == 0:
            self._decide()

    def _decide(self) -> None:
        """Does what has paid, or tries the other; a try of waiting knows of no callers before."""
        pays = self._rates[True].per_s > GAIN * self._rates[False].per_s
        tries = self._batches // RUN % TRIES == 0
        self._waits = pays != tries
        if tries and not pays:
            self._crowd = Crowd()
