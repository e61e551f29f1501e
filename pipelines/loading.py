"""How far the loading of data has come, told to the journal of the run that waits for it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

SECONDS = 1.0
"""A sentence at most so often."""
_say: ContextVar[Callable[[str], None]] = ContextVar("say", default=lambda sentence: None)


@contextmanager
def told(emit: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Gives `emit` an event `loading`, and while the block loads, now and then one with a sentence of what was read."""
    last = float("-inf")

    def say(sentence: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            emit({"event": "loading", "sentence": sentence})

    emit({"event": "loading"})
    before = _say.set(say)
    try:
        yield
    finally:
        _say.reset(before)


class Pass:
    """Counts what one pass over the data has read, for whoever is told."""

    def __init__(self, which: str, total: int, what: str) -> None:
        """Takes the pass in a word, as first, and how many there are of what, as files."""
        self._which, self._total, self._what = which, total, what
        self._done = 0
        self.add(0)

    def add(self, count: int) -> None:
        """Counts some that were read."""
        self._done += count
        _say.get()(f"reading data, {self._which} pass, {self._done:,} of {self._total:,} {self._what}")
