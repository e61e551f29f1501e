"""A model whose answers to its own examples are no numbers never takes the place of one that serves."""

from dataclasses import dataclass
from typing import Any

import endpoints
import numpy as np
import pytest
import torch

from pipelines.sentiment.model import Prediction
from services import tryout
from services.options import Options

NAN, INFINITY = float("nan"), float("inf")


@dataclass
class Box:
    """What a task of a user's own may predict."""

    sides: list[float]
    name: str | None = None


class Answering:
    """Gives the same prediction for everything."""

    def __init__(self, prediction: Any) -> None:
        self.prediction = prediction

    def examples(self) -> list[int]:
        return [1]

    def predict(self, inputs: list[int]) -> list[Any]:
        return [self.prediction] * len(inputs)


def try_out(prediction: Any) -> None:
    tryout.try_out(endpoints.loaded("sentiment", Answering(prediction)), Options())


@pytest.mark.parametrize(
    "prediction",
    [
        NAN,
        -INFINITY,
        Prediction([("positive", NAN), ("negative", NAN)]),
        {"boxes": [Box([1.0, INFINITY])]},
        np.array([0.5, NAN], np.float32),
        np.float32(NAN),
        torch.tensor([NAN]),
    ],
)
def test_a_model_that_answers_with_no_finite_number_is_refused(prediction: Any) -> None:
    with pytest.raises(ValueError, match="the model of sentiment answers its own examples with NaN or infinity"):
        try_out(prediction)


@pytest.mark.parametrize(
    "prediction",
    [
        0.5,
        None,
        "nan",
        Prediction([("positive", 0.6), ("negative", 0.4)]),
        {"boxes": [Box([1.0]), None, 3]},
        np.array(["nan"], dtype=object),
        np.arange(3),
        torch.tensor([1]),
        [],
    ],
)
def test_what_is_finite_or_no_number_at_all_is_accepted(prediction: Any) -> None:
    try_out(prediction)
