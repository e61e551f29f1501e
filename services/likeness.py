"""Whether two predictions say the same: scores that are near each other under the same best answer."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def same(one: Any, other: Any, tolerance: float) -> bool:
    """Compares predictions of any task.

    Numbers may differ by the tolerance, absolutely; where scores are ranked or stand beside each other, the best must
    be the same. Everything else, kinds not known here included, must be equal.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return _near(one, other, tolerance)
    if isinstance(one, Exception):
        return str(one) == str(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list | tuple):
        return _same_lists(one, other, tolerance)
    if is_dataclass(one):
        names = [field.name for field in fields(one)]
        return all(same(getattr(one, name), getattr(other, name), tolerance) for name in names)
    if type(one).__module__.partition(".")[0] in ("numpy", "torch"):
        return _same_arrays(one, other, tolerance)
    try:
        return bool(one == other)
    except Exception:
        return False


def _near(one: float, other: float, tolerance: float) -> bool:
    return one == other or abs(one - other) <= tolerance or (math.isnan(one) and math.isnan(other))


def _same_lists(one: Any, other: Any, tolerance: float) -> bool:
    if len(one) != len(other):
        return False
    if _is_ranking(one) and _is_ranking(other):
        return _same_rankings(one, other, tolerance)
    if len(one) > 1 and all(isinstance(value, float) for value in (*one, *other)):
        return _same_arrays(np.array(one), np.array(other), tolerance)
    return all(same(*pair, tolerance) for pair in zip(one, other, strict=True))


def _is_ranking(entries: Any) -> bool:
    """Whether a list is of names with their scores, such as (label, score) or (item, score, title)."""
    return bool(entries) and all(
        isinstance(entry, tuple) and len(entry) > 1 and isinstance(entry[0], str) and isinstance(entry[1], float)
        for entry in entries
    )


def _same_rankings(one: Any, other: Any, tolerance: float) -> bool:
    """Compares by place and by name: entries whose scores are as good as equal may change places below the first."""
    if not same(one[0][0], other[0][0], 0.0):
        return False
    there = {entry[0]: entry[1:] for entry in other}
    by_place = all(_near(mine[1], theirs[1], tolerance) for mine, theirs in zip(one, other, strict=True))
    return by_place and all(same(entry[1:], there[entry[0]], tolerance) for entry in one if entry[0] in there)


def _same_arrays(one: Any, other: Any, tolerance: float) -> bool:
    try:
        mine, theirs = _array(one), _array(other)
    except (TypeError, ValueError, RuntimeError):
        return False
    if mine.shape != theirs.shape or getattr(one, "dtype", None) != getattr(other, "dtype", None):
        return False
    if mine.dtype.kind != "f":
        return bool(np.array_equal(mine, theirs))
    if not np.allclose(mine, theirs, rtol=0.0, atol=tolerance, equal_nan=True):
        return False
    ranked = mine.ndim > 0 and mine.shape[-1] > 1
    return not (ranked and mine.size) or bool(np.array_equal(mine.argmax(-1), theirs.argmax(-1)))


def _array(value: Any) -> np.ndarray:
    """Takes a tensor to the CPU; numpy knows no bfloat16, which float32 holds exactly."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)
