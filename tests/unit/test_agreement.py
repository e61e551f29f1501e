"""Two models' answers are compared by what they hold."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pipelines import agreement
from pipelines.recommender.model import Recommendation
from pipelines.sentiment.model import Prediction


class Plain:
    """A model without agree()."""


def items(*names: str) -> Recommendation:
    return Recommendation([(name, 1.0, "") for name in names])


@dataclass
class Box:
    left: float
    right: list[int]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Prediction([("good", 0.9), ("bad", 0.1)]), Prediction([("good", 0.6), ("bad", 0.4)]), 1.0),
        (Prediction([("good", 0.9), ("bad", 0.1)]), Prediction([("bad", 0.6), ("good", 0.4)]), 0.0),
        (items("a", "b", "c", "d"), items("d", "c", "x", "y"), 0.5),
        (items(), items(), 1.0),
        (items("a"), items(), 0.0),
        (1.0, 1.0005, 1.0),
        (1.0, 1.01, 0.0),
        (math.nan, math.nan, 1.0),
        (True, 1, 0.0),
        ("even", "even", 1.0),
        ("even", "odd", 0.0),
        ([1.0, 2.0], [1.0, 2.0001], 1.0),
        ([1.0, 2.0], [1.0], 0.0),
        (np.array([1.0, 2.0]), np.array([1.0, 3.0]), 0.0),
        ({"a": [1.0]}, {"a": [1.0]}, 1.0),
        ({"a": 1}, {"b": 1}, 0.0),
        (Box(1.0, [1]), Box(1.0, [1]), 1.0),
        (Box(1.0, [1]), Box(1.0, [2]), 0.0),
        (ValueError("no"), ValueError("not that"), 1.0),
        (ValueError("no"), "even", 0.0),
        ("even", "even and more", 0.0),
    ],
)
def test_agreement_is_derived_from_what_predictions_hold(one: Any, other: Any, expected: float):
    assert agreement.of(Plain(), [one], [other]) == expected


def test_a_model_may_say_itself_and_the_mean_counts():
    class Own:
        def agree(self, prediction: int, other: int) -> float:
            return 0.25 if prediction != other else 7.0

    assert agreement.of(Own(), [1, 2], [1, 3]) == pytest.approx((1.0 + 0.25) / 2)
