"""The loss and the metrics of the sentiment task, checked by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipelines.sentiment import train


class Fixed(nn.Module):
    """Gives the logits that it is called with."""

    def forward(self, tokens_BT: Tensor, grams_G: Tensor, starts_B: Tensor) -> Tensor:
        return tokens_BT


def batch(logits: list[list[float]], labels: list[int]) -> train.Batch:
    """Makes a batch whose logits are known."""
    return torch.tensor(logits), torch.zeros(0), torch.zeros(len(labels)), torch.tensor(labels)


def test_metrics_are_those_of_all_batches_together() -> None:
    far = math.log(3)
    first = train.measure(Fixed(), batch([[far, 0, -99], [0, far, -99]], [0, 0]))
    second = train.measure(Fixed(), batch([[0, far, -99], [far, 0, -99]], [1, 1]))
    metrics = train.metrics({name: first[name] + second[name] for name in first})
    assert metrics["accuracy"] == metrics["macro_f1"] == 0.5
    assert metrics["loss"] == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert metrics["ece"] == pytest.approx(0.25)


def test_confusion_has_true_labels_in_rows() -> None:
    sums = train.measure(Fixed(), batch([[0, 5, 0], [0, 5, 0], [5, 0, 0]], [2, 1, 0]))
    assert sums["confusion"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_a_label_that_never_occurs_does_not_lower_macro_f1() -> None:
    sums = train.measure(Fixed(), batch([[9, 0, 0], [0, 9, 0]], [0, 1]))
    assert train.metrics(sums)["macro_f1"] == 1.0


def test_the_loss_is_a_mean_over_texts() -> None:
    one, two = batch([[1, 0, 0]], [1]), batch([[1, 0, 0]] * 2, [1, 1])
    assert train.loss(Fixed(), one).item() == pytest.approx(train.loss(Fixed(), two).item())
