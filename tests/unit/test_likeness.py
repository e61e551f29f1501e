"""Two predictions say the same when scores are near under the same best answer, and all else is equal."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.recommender.model import NotFoundError, Recommendation
from pipelines.sentiment.model import Prediction
from services.likeness import same


@dataclass
class Answer:
    """A prediction of a user's own task."""

    words: list[str]
    score: float
    vector: torch.Tensor


class Unknown:
    """A prediction that says nothing of how it compares."""


def answer(word: str = "yes", score: float = 0.5, vector: tuple[float, ...] = (0.1, 0.9)) -> Answer:
    return Answer([word], score, torch.tensor(vector))


NAN = float("nan")
ALIKE: list[tuple[Any, Any]] = [
    (0.5, 0.505),
    (NAN, NAN),
    (float("-inf"), float("-inf")),
    ("even", "even"),
    (ValueError("bad"), ValueError("bad")),
    (answer(), answer(score=0.505, vector=(0.105, 0.895))),
    ({"a": 1.0, "b": None}, {"a": 1.001, "b": None}),
    (np.array([1, 2]), np.array([1, 2])),
    (torch.tensor([0.2, 0.8]).bfloat16(), torch.tensor([0.2, 0.8]).bfloat16()),
    (Prediction([("a", 0.5), ("b", 0.251), ("c", 0.249)]), Prediction([("a", 0.5), ("c", 0.251), ("b", 0.249)])),
    (Recommendation([("1", 3.0, "A"), ("2", 2.0, "B")]), Recommendation([("1", 3.0, "A"), ("3", 2.001, "C")])),
    ([], []),
]
OTHERWISE: list[tuple[Any, Any]] = [
    (0.5, 0.52),
    (0.5, NAN),
    (1, 2),
    (1, 1.0),
    ("even", "odd"),
    (ValueError("bad"), ValueError("worse")),
    (ValueError("bad"), NotFoundError("bad")),
    (answer(), answer(word="no")),
    (answer(), answer(vector=(0.1, 0.95))),
    ([0.5, 0.499], [0.499, 0.5]),
    (np.array([0.5, 0.499]), np.array([0.499, 0.5])),
    (torch.zeros(2), torch.zeros(3)),
    (torch.zeros(2), torch.zeros(2).double()),
    ({"a": 1.0}, {"b": 1.0}),
    (Prediction([("a", 0.501), ("b", 0.499)]), Prediction([("b", 0.501), ("a", 0.499)])),
    (Prediction([("a", 0.9), ("b", 0.1)]), Prediction([("a", 0.9)])),
    (Recommendation([("1", 3.0, "A"), ("2", 2.0, "B")]), Recommendation([("1", 3.0, "A"), ("2", 2.0, "other")])),
    (Unknown(), Unknown()),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_predictions_within_the_tolerance_are_the_same(one: Any, other: Any):
    assert same(one, other, 0.01)


@pytest.mark.parametrize(("one", "other"), OTHERWISE)
def test_predictions_beyond_the_tolerance_or_of_another_best_answer_are_not(one: Any, other: Any):
    assert not same(one, other, 0.01)
