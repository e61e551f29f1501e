"""The average of the weights is what is evaluated and written; training goes on with the weights themselves."""

from pathlib import Path
from typing import Any

import pytest
import torch
import training
from safetensors.torch import load_file
from torch import nn
from training import REGRESSION

from pipelines.averaging import Average
from pipelines.place import Place

NORMED: dict[str, Any] = {"epochs": 2, "batch_size": 256, "ema": 0.9}
"""Batch norm, dropout, augmentation; 12 steps."""


def test_the_average_is_the_recursion_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average, expected = Average(network, 0.5, Place()), 0.0
    for step in range(6):
        nn.init.constant_(network.weight, step + 1.0)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    with average.shown():
        assert network.weight.item() == pytest.approx(expected)
    assert network.weight.item() == 6.0


def test_statistics_that_are_not_finite_are_passed_over_until_they_are() -> None:
    network = nn.BatchNorm1d(1)
    network.register_buffer("mask", torch.tensor([-torch.inf, 0.0]))
    average, running_mean = Average(network, 0.0, Place()), network.get_buffer("running_mean")
    for step, mean in enumerate((1.0, torch.nan, torch.inf, 3.0)):
        running_mean.fill_(mean)
        average.update(step)
    with average.shown():
        assert running_mean.item() == 3.0
        assert network.get_buffer("mask").tolist() == [-torch.inf, 0.0]
    for mean in (torch.nan, torch.inf):
        running_mean.fill_(mean)
        average.update(9)
        with average.shown():
            assert running_mean.item() == 3.0


def test_training_is_the_same_with_an_average_and_the_artifact_holds_it(tmp_path: Path) -> None:
    raw = training.train(tmp_path / "raw", **{**NORMED, "ema": 0.0})
    averaged = training.train(tmp_path / "averaged", **NORMED)
    assert averaged.losses == raw.losses
    kept = load_file(sorted((tmp_path / "averaged" / "checkpoints").glob("step-*"))[-1] / "tensors.safetensors")
    learned = [name for name in averaged.weights if f"/average/weights/{name}" in kept]
    assert len(learned) == 11
    assert all(torch.equal(kept[f"/average/weights/{name}"], averaged.weights[name]) for name in learned)
    assert all(torch.equal(kept[f"/network/{name}"], value) for name, value in raw.weights.items())
    name = "body.1.running_mean"
    assert not torch.equal(averaged.weights[name], raw.weights[name])


def test_a_run_with_an_average_is_resumed_bit_identical(tmp_path: Path) -> None:
    whole = training.train(tmp_path / "whole", **NORMED)
    training.stop(tmp_path / "parts", stop_at=9, checkpoint_steps=4, **NORMED)
    parts = training.train(tmp_path / "parts", checkpoint_steps=4, **NORMED)
    assert parts.named("resume")[0]["step"] == 8
    assert parts.metrics == whole.metrics
    assert all(torch.equal(parts.weights[name], value) for name, value in whole.weights.items())


def test_two_processes_average_as_one_does_and_are_resumed_bit_identical(tmp_path: Path, pair: training.Pair) -> None:
    plain = {"word": REGRESSION, "epochs": 50, "ema": 0.9}
    one = training.train(tmp_path / "one", **plain)
    assert pair.run(training.train_ranked, tmp_path / "two", plain)[0].metrics == pytest.approx(one.metrics, rel=1e-4)
    settings = NORMED | {"checkpoint_steps": 4}
    whole = pair.run(training.train_ranked, tmp_path / "whole", settings)[0]
    pair.run(training.stop_ranked, tmp_path / "parts", 9, settings)
    parts = pair.run(training.train_ranked, tmp_path / "parts", settings)[0]
    assert parts.named("resume")[0]["step"] == 8
    assert parts.metrics == whole.metrics
    assert all(torch.equal(parts.weights[name], value) for name, value in whole.weights.items())


def test_early_stopping_keeps_the_best_average(tmp_path: Path) -> None:
    flags = training.PLAIN | {"lr": 0.5, "epochs": 12, "early_stopping": 2, "ema": 0.95}
    outcome = training.train(tmp_path, **flags)
    accuracies = [event["metrics"]["accuracy"] for event in outcome.named("epoch")]
    assert outcome.metrics["accuracy"] > 0.8
    kept = load_file(sorted((tmp_path / "checkpoints").glob("step-*"))[-1] / "tensors.safetensors")
    assert all(torch.equal(kept[f"/best/{name}"], value) for name, value in outcome.weights.items()), accuracies
