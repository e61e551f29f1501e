"""Tensors in what modules are given and give, and in batches, however nested."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def tensors(value: Any) -> Iterator[Tensor]:
    """Yields the tensors in a value: a tensor, or dicts, lists, tuples and dataclasses of values."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors(list(vars(value).values()))


def floats(value: Any) -> list[Tensor]:
    """Lists the tensors of real numbers in a value."""
    return [tensor for tensor in tensors(value) if tensor.is_floating_point()]


def is_finite(value: Any) -> bool:
    """Says whether a value holds nothing that is not finite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors(value))


def is_broken(value: Any) -> bool:
    """Says whether a value holds NaN or plus infinity; minus infinity alone is how masks are written."""
    return any(bool((tensor.isnan() | (tensor == float("inf"))).any()) for tensor in tensors(value))
