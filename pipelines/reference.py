"""What a model met and said on its validation split, as histograms: what drift is measured against.

It lies in the artifact as reference.json. Shapes: E edges, M cells (E + 1), G groups of cells.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "reference.json"
MOST_EXAMPLES, LEAST_EXAMPLES = 2_000, 100
"""Examples of the validation split that are kept as histograms; of fewer than the least there is no reference."""
MOST_FEATURES = 32
CELLS = 64
"""Cells of about equal share that a feature's values fall into."""
GROUPS, LEAST_GROUPS, GROUP_EXAMPLES = 10, 4, 40
"""PSI compares ten groups of cells, fewer when the reference has under forty examples for each."""
BATCH = 64
PRIOR = 0.5
"""What is added to each group's count, so that an empty one makes PSI large and not infinite."""

Counts = NDArray[np.int64]
Values = Mapping[str, Sequence[Any]]
"""By feature, a number for each input, or a name where the feature is one of a few names."""


@dataclass(frozen=True)
class Histogram:
    """How often each range of a number, or each name, occurred."""

    edges: tuple[float, ...]
    """Ascending; cell m holds what is above edge m - 1 and at most edge m, the outermost cells all beyond."""
    counts: tuple[int, ...]
    names: tuple[str, ...] = ()
    """What the cells count, where these are names; then the edges only keep them apart."""

    def __post_init__(self) -> None:
        """Raises ValueError when edges, counts and names do not belong together."""
        ascending = all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False))
        fits = len(self.counts) == len(self.edges) + 1 and len(self.names) in (0, len(self.counts))
        if not (ascending and fits and sum(self.counts) > 0 and min(self.counts) >= 0):
            raise ValueError(
                f"{len(self.edges)} edges, {len(self.counts)} counts and {len(self.names)} names make no histogram"
            )

    @classmethod
    def of(cls, values: Sequence[Any], names: Sequence[str] = ()) -> "Histogram":
        """Counts values in cells of about equal share; values outside their range get cells of their own."""
        if names:
            told = [values.count(name) for name in names]
            return cls(tuple(at + 0.5 for at in range(len(names) - 1)), tuple(told), tuple(names))
        found = np.asarray(values, np.float64)
        cuts = np.quantile(found, np.linspace(0, 1, CELLS + 1)[1:], method="inverted_cdf")
        edges = tuple(np.unique([np.nextafter(found.min(), -np.inf), *cuts]).tolist())
        return cls(edges, tuple(_count(edges, found).tolist()))

    def count(self, values: Sequence[Any]) -> Counts:
        """Counts values in the reference's cells; int64 [M]. Names that it does not know are left out."""
        if self.names:
            values = [self._place[name] for name in values if name in self._place]
        return _count(self.edges, np.asarray(values, np.float64))

    def psi(self, counts_M: Counts) -> float:
        """Gives the population stability index of other counts in the same cells."""
        groups = int(self._groups.max()) + 1
        expected_G = np.bincount(self._groups, self.counts, groups) + PRIOR
        actual_G = np.bincount(self._groups, counts_M, groups) + PRIOR
        expected_G, actual_G = expected_G / expected_G.sum(), actual_G / actual_G.sum()
        return float(((actual_G - expected_G) * np.log(actual_G / expected_G)).sum())

    def ks(self, counts_M: Counts) -> float:
        """Gives the Kolmogorov-Smirnov distance at the edges, which misses at most what lies in one cell."""
        expected_M = np.cumsum(self.counts) / sum(self.counts)
        return float(np.abs(np.cumsum(counts_M) / counts_M.sum() - expected_M).max())

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.names)}

    @cached_property
    def _groups(self) -> Counts:
        """The group of each cell, by the middle of its share; numbered without gaps."""
        counts_M = np.asarray(self.counts, np.float64)
        wanted = min(GROUPS, max(LEAST_GROUPS, int(counts_M.sum()) // GROUP_EXAMPLES))
        middle_M = (counts_M.cumsum() - counts_M / 2) / counts_M.sum()
        return np.unique(np.minimum((middle_M * wanted).astype(np.int64), wanted - 1), return_inverse=True)[1]


@dataclass(frozen=True)
class Reference:
    """The histograms of a model's features."""

    features: dict[str, Histogram]

    def to_json(self) -> str:
        """Writes the reference as JSON."""
        return json.dumps({"features": {name: asdict(one) for name, one in self.features.items()}}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Reference":
        """Reads what `to_json` wrote; raises ValueError when the text is nothing of the kind."""
        try:
            found = {
                str(name): Histogram(**{key: tuple(value) for key, value in one.items()})
                for name, one in json.loads(text)["features"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"{FILE} is no reference: {problem}") from problem
        if len(found) > MOST_FEATURES:
            raise ValueError(f"{FILE} has {len(found)} features; the most is {MOST_FEATURES}")
        return cls(found)


def observe(model: Any, inputs: Sequence[Any], predictions: Sequence[Any]) -> Values:
    """Says what drift watches of inputs that were answered: the model's own features, the best label and its score."""
    pairs = [pair for pair in zip(inputs, predictions, strict=True) if not isinstance(pair[1], Exception)]
    if not pairs:
        return {}
    asked, said = [one for one, _ in pairs], [one for _, one in pairs]
    found: dict[str, Sequence[Any]] = dict(model.features(asked, said)) if hasattr(model, "features") else {}
    if all(getattr(one, "labels", None) for one in said):
        found["top_score"] = [one.labels[0][1] for one in said]
        found["label"] = [one.labels[0][0] for one in said]
    return found


def measure(model: Any, inputs: Sequence[Any]) -> Reference | None:
    """Lets the model answer inputs and counts what `observe` sees; None when these are too few."""
    values: dict[str, list[Any]] = {}
    names: tuple[str, ...] = ()
    for start in range(0, len(inputs), BATCH):
        asked = inputs[start : start + BATCH]
        said = model.predict(asked)
        for feature, seen in observe(model, asked, said).items():
            values.setdefault(feature, []).extend(seen)
        ranked = next((one.labels for one in said if getattr(one, "labels", None)), ())
        names = names or tuple(sorted(label for label, _ in ranked))
    full = {feature: seen for feature, seen in values.items() if len(seen) >= LEAST_EXAMPLES}
    if not full:
        return None
    return Reference(
        {feature: Histogram.of(seen, names if feature == "label" else ()) for feature, seen in full.items()}
    )


def read(folder: Path) -> Reference | None:
    """Reads an artifact's reference; None for an artifact without. Raises ValueError for one that is none."""
    path = folder / FILE
    return Reference.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def spread(count: int, most: int = MOST_EXAMPLES) -> list[int]:
    """Picks at most `most` of `count` places, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)).tolist()


def _count(edges: tuple[float, ...], values: NDArray[np.float64]) -> Counts:
    return np.bincount(np.searchsorted(edges, values, "left"), minlength=len(edges) + 1)
