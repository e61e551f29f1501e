"""Every flag out of range is a sentence that names the flag, the value and what is allowed."""

import dataclasses
import re
from typing import Any

import pytest

from pipelines.settings import Launch, Settings


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": 0}, "--epochs is 0; the least allowed is 1"),
        ({"batch_size": 0}, "--batch-size is 0; the least allowed is 1"),
        ({"accumulate": 0}, "--accumulate is 0; the least allowed is 1"),
        ({"early_stopping": -1}, "--early-stopping is -1; the least allowed is 0"),
        ({"seed": -1}, "--seed is -1; the least allowed is 0"),
        ({"lr": float("nan")}, "--lr is nan; it must be finite and not negative"),
        ({"lr": float("inf")}, "--lr is inf; it must be finite and not negative"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1; it must be finite and not negative"),
        ({"clip": -1.0}, "--clip is -1.0; it must be finite and not negative"),
        ({"momentum": -1.0}, "--momentum is -1.0; it must be finite and not negative"),
        ({"dropout": 1.0}, "--dropout is 1.0; it must be at least 0 and below 1"),
        ({"batch_size": 4, "accumulate": 5}, "--accumulate is 5; it must not exceed the batch size 4"),
    ],
)
def test_a_setting_out_of_range_is_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Settings(**values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"workers": 0}, "--workers is 0; the least allowed is 1"),
        ({"threads": -1}, "--threads is -1; it must be 0 or more"),
        ({"margin": -0.1}, "--margin is -0.1; it must be finite and not negative"),
        ({"slice_margin": float("nan")}, "--slice-margin is nan; it must be finite and not negative"),
        ({"confidence": 1.0}, "--confidence is 1.0; it must be above 0.5 and below 1"),
        ({"local": True, "workers": 2}, "--local trains in one process; --workers is 2"),
        ({"resume": "a", "run_dir": "b"}, "--resume continues in its own folder; leave out --run-dir"),
    ],
)
def test_a_launch_that_cannot_be_is_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Launch(**values)


@pytest.mark.parametrize("kind", [Settings, Launch])
def test_settings_do_not_change(kind: type[Any]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().workers = 3
