"""How far two models' predictions of the same input agree.

A model may say it itself, with agree(prediction, other) -> 0 to 1; for one that does not, it is derived from what the
predictions hold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

RELATIVE, ABSOLUTE = 1e-3, 1e-6
"""How far apart two numbers may be to count as equal."""


def of(model: Any, ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Gives the mean agreement of two lists of predictions, or of errors in their place; 0 to 1.

    Two errors agree, an error and a prediction do not. Raises what the model's own agree() raises.
    """
    agree = getattr(model, "agree", derived)
    found = [_of_pair(agree, one, other) for one, other in zip(ours, theirs, strict=True)]
    return sum(found) / len(found) if found else 1.0


def derived(prediction: Any, other: Any) -> float:
    """Compares by the best label, by the share of common items, else by equality, of numbers within a tolerance."""
    if getattr(prediction, "labels", None) and getattr(other, "labels", None):
        return float(prediction.labels[0][0] == other.labels[0][0])
    if hasattr(prediction, "items") and hasattr(other, "items") and not isinstance(prediction, Mapping):
        return _overlap({item[0] for item in prediction.items}, {item[0] for item in other.items})
    return float(_equal(prediction, other))


def _of_pair(agree: Any, one: Any, other: Any) -> float:
    failed = [isinstance(answer, Exception) for answer in (one, other)]
    if any(failed):
        return float(all(failed))
    return min(1.0, max(0.0, float(agree(one, other))))


def _overlap(items: set[Any], others: set[Any]) -> float:
    return len(items & others) / max(len(items), len(others)) if items or others else 1.0


def _equal(one: Any, other: Any) -> bool:
    """Compares values of the kinds that tensors are derived for, however nested."""
    one, other = (value.tolist() if hasattr(value, "tolist") else value for value in (one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    if is_dataclass(one) and type(one) is type(other):
        return all(_equal(getattr(one, entry.name), getattr(other, entry.name)) for entry in fields(one))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
