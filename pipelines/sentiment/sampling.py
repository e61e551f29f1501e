"""A sample of bounded size that depends on which texts there are, and neither on their order nor on who reads them."""

import heapq
from collections.abc import Iterable

MOST_TEXTS = 20_000
MOST_CHARACTERS = 4_000_000


class Sample:
    """The texts with the lowest keys, as many as fit, each once."""

    def __init__(self, most_texts: int = MOST_TEXTS, most_characters: int = MOST_CHARACTERS) -> None:
        """Holds at most so many texts, and at most so many characters unless one text alone has more."""
        self._most_texts, self._most_characters = most_texts, most_characters
        self._heap: list[tuple[int, str]] = []
        self._there: set[str] = set()
        self._characters = 0
        self._limit = float("inf")

    def add(self, texts: Iterable[str], keys: Iterable[int]) -> None:
        """Takes texts with their keys, which are drawn from the texts; whatever is not among the lowest is let go."""
        for text, key in zip(texts, keys, strict=True):
            key = int(key)
            if key >= self._limit or text in self._there:
                continue
            heapq.heappush(self._heap, (-key, text))
            self._there.add(text)
            self._characters += len(text)
            while len(self._heap) > max(1, self._most_texts) or (
                self._characters > self._most_characters and len(self._heap) > 1
            ):
                lowered, gone = heapq.heappop(self._heap)
                self._there.remove(gone)
                self._characters -= len(gone)
                self._limit = -lowered

    def texts(self) -> list[str]:
        """Lists what was kept, in the order of the keys."""
        return [text for _, text in sorted(self._heap, reverse=True)]
