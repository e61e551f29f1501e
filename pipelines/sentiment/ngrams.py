"""Word and character n-grams as 64-bit hashes: fast enough for a request, and fit for text without spaces.

Shapes: G n-grams of a text, V n-grams of the vocabulary, W words or characters of a text.
"""

import re
import unicodedata
import zlib

import numpy as np
from numpy.typing import NDArray

WORD_SIZES = (1, 2)
CHARACTER_SIZES = (2, 3, 4, 5)
LEAST_TEXTS = 2
"""Training texts that must hold an n-gram before it gets a weight."""

_WORD = re.compile(r"[^\W\u3040-\u30ff\u3400-\u9fff]+|[\u3040-\u30ff\u3400-\u9fff]|[^\w\s]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def extract(text: str) -> NDArray[np.int64]:
    """Hashes a text's n-grams, each once, in ascending order, whatever their case and width; int64 [G].

    Punctuation marks, and each character of Chinese or Japanese, count as words.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    words_W = np.array([zlib.crc32(word.encode()) for word in _WORD.findall(text)], dtype=np.uint64)
    points_W = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    parts = _hash(words_W, WORD_SIZES, 1) + _hash(points_W, CHARACTER_SIZES, 2)
    return np.unique(np.concatenate(parts).view(np.int64))


def choose(texts: list[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    """Chooses the `count` n-grams that most texts hold; ascending int64 [V]."""
    keys_V, frequency_V = np.unique(np.concatenate(texts), return_counts=True)
    keys_V, frequency_V = keys_V[frequency_V >= LEAST_TEXTS], frequency_V[frequency_V >= LEAST_TEXTS]
    return np.sort(keys_V[np.argsort(-frequency_V, kind="stable")[:count]])


def find(keys_V: NDArray[np.int64], grams_G: NDArray[np.int64]) -> NDArray[np.int64]:
    """Finds the rows of those n-grams that are in the vocabulary; the others are left out."""
    if not len(keys_V):
        return grams_G[:0]
    rows_G = np.minimum(np.searchsorted(keys_V, grams_G), len(keys_V) - 1)
    return rows_G[keys_V[rows_G] == grams_G]


def _hash(units_W: NDArray[np.uint64], sizes: tuple[int, ...], salt: int) -> list[NDArray[np.uint64]]:
    """Hashes all runs of each size by multiplying and shifting; a longer run goes on from a shorter one's hash."""
    hashes = np.full(len(units_W), salt, dtype=np.uint64)
    found = []
    for size in range(1, max(sizes) + 1):
        hashes = (hashes[: max(0, len(units_W) - size + 1)] ^ units_W[size - 1 :]) * _FACTOR
        hashes ^= hashes >> _SHIFT
        if size in sizes:
            found.append(hashes)
    return found
