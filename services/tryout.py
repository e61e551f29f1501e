"""What a model must do before it serves: answer its own examples, alone and as a full batch."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from services.models import Loaded
from services.options import Options

MOST_LOOKED_AT = 16
"""Answers that are looked through for numbers: a full batch is the same few examples over and over."""


def full_batch(model: Any, options: Options) -> list[Any]:
    """Repeats a model's examples until they are a full batch."""
    examples: list[Any] = model.examples()
    count = min(options.max_batch, options.max_waiting)
    return (examples * count)[:count]


def check(name: str, answers: list[Any]) -> None:
    """Raises ValueError for a refusal, or a number that is not finite, among a model's answers to its own examples."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise ValueError(f"the model of {name} refuses its own examples: {answer}")
    if not all(_is_finite(answer) for answer in answers[:MOST_LOOKED_AT]):
        raise ValueError(f"the model of {name} answers its own examples with NaN or infinity")


def try_out(loaded: Loaded, options: Options) -> None:
    """Asks a model that has no thread yet; raises ValueError when it refuses its examples, and what it raises."""
    full = full_batch(loaded.model, options)
    for inputs in (full[:1], full):
        answers = loaded.model.predict(inputs)
        if len(answers) != len(inputs):
            raise ValueError(f"the model of {loaded.name} gives {len(answers)} predictions of {len(inputs)} examples")
        check(loaded.name, answers)


def _is_finite(value: Any) -> bool:
    """Looks for NaN and infinity in a prediction of any task; what is no number is none."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    if is_dataclass(value):
        return all(_is_finite(getattr(value, field.name)) for field in fields(value))
    if hasattr(value, "detach"):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, np.ndarray | np.floating):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    return True
