"""The paired bootstrap: test examples drawn again with replacement, for both models at once.

B. Efron, "Bootstrap methods: another look at the jackknife", 1979; of pairs, so that what both models find hard
cancels out. Shapes: N examples, R resamples, K of a chunk, G groups.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]
"""Works a number [K] out of how often each example is in each resample [K, N]."""

ROUNDS, LEAST_ROUNDS = 10_000, 1_000
MOST_DRAWS = 400_000_000
"""Examples drawn in all; of a test split so large that 10,000 resamples exceed it there are fewer."""
CHUNK = 2_000_000
"""Examples drawn at a time, which bounds the memory."""


def rounds(count: int) -> int:
    """Says how many resamples of `count` examples are drawn."""
    return int(np.clip(MOST_DRAWS // count, LEAST_ROUNDS, ROUNDS))


def draw(statistics: Mapping[str, Statistic], count: int, seed: int) -> dict[str, Floats]:
    """Works each statistic out of the same resamples of `count` examples; [R] each, the same for the same seed."""
    generator, left = np.random.default_rng(seed), rounds(count)
    parts: dict[str, list[Floats]] = {name: [] for name in statistics}
    while left:
        size = min(left, max(1, CHUNK // count))
        left -= size
        weights_KN = _weights(generator, size, count)
        for name, statistic in statistics.items():
            parts[name].append(statistic(weights_KN))
    return {name: np.concatenate(found) for name, found in parts.items()}


def grouped(weights_KN: Floats, value_N: Floats, group_N: Ints, groups: int) -> Floats:
    """Sums the weighted values of each group in each resample [K, G]."""
    size = len(weights_KN)
    place_KN = group_N + np.arange(size)[:, None] * groups
    sums = np.bincount(place_KN.ravel(), (weights_KN * value_N).ravel(), size * groups)
    return sums.reshape(size, groups).astype(np.float64)


def _weights(generator: np.random.Generator, size: int, count: int) -> Floats:
    drawn_KN = generator.integers(0, count, (size, count)) + np.arange(size)[:, None] * count
    return np.bincount(drawn_KN.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
