"""Temperatures are found where the loss is least, are kept by the artifact, and never change which label is first."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training
from scipy.optimize import minimize_scalar
from torch import Tensor

from pipelines import calibration, tasks
from pipelines.classifier.model import Model, Prediction

CPU = torch.device("cpu")


def drawn(count: int, factor: float) -> tuple[Tensor, Tensor]:
    """Logits that are `factor` times too sure of labels drawn by them."""
    generator = torch.Generator().manual_seed(0)
    logits_BC = 2 * torch.randn(count, 5, generator=generator)
    label_B = torch.multinomial(logits_BC.softmax(1), 1, generator=generator)[:, 0]
    return factor * logits_BC, label_B


def fit_half(rank: int, count: int) -> float:
    """Fits as one of the pair; the first rank has `count` of the examples, the second the rest."""
    logits_BC, label_B = drawn(1_000, 3.0)
    own = slice(count) if rank == 0 else slice(count, None)
    parts = [(logits_BC[own], label_B[own])] if len(label_B[own]) else []
    return calibration.fit(parts, 2, CPU)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_it_undoes_a_known_temperature(factor: float) -> None:
    assert calibration.fit([drawn(20_000, factor)], 1, CPU) == pytest.approx(factor, rel=0.05)


def test_it_is_where_scipy_finds_the_least_loss() -> None:
    logits_BC, label_B = drawn(5_000, 2.0)

    def mean_loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits_BC.double() / temperature, label_B))

    least: Any = minimize_scalar(mean_loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-6})
    found = calibration.fit([(logits_BC, label_B)], 1, CPU)
    assert found == pytest.approx(least.x, rel=2e-3)  # the target's one example of doubt
    assert mean_loss(found) == pytest.approx(least.fun, rel=1e-6)


def test_few_examples_that_are_all_right_ask_for_no_boundless_confidence() -> None:
    label_B = torch.arange(50) % 5
    logits_BC = 3.0 * torch.nn.functional.one_hot(label_B, 5).float()
    temperature = calibration.fit([(logits_BC, label_B)], 1, CPU)
    confidence = (logits_BC / temperature).softmax(1).max(1).values
    assert 0.95 < float(confidence.min()) < 1 - 1 / 100


def test_examples_count_the_same_however_they_lie_in_batches() -> None:
    logits_BC, label_B = drawn(1_000, 3.0)
    parts = list(zip(logits_BC.split(77), label_B.split(77), strict=True))
    assert calibration.fit(parts, 1, CPU) == calibration.fit([(logits_BC, label_B)], 1, CPU)


@pytest.mark.parametrize("count", [400, 1_000])
def test_every_rank_finds_the_temperature_of_all_examples(pair: training.Pair, count: int) -> None:
    whole = calibration.fit([drawn(1_000, 3.0)], 1, CPU)
    assert pair.run(fit_half, count) == [whole, whole]


def test_the_calibration_error_of_a_hand_worked_case() -> None:
    sure = torch.tensor([[4.0, 0.0]] * 4).log_softmax(1)
    bins_R3 = calibration.reliability(sure, torch.tensor([0, 0, 1, 1]))
    confidence = float(sure.exp()[0, 0])
    assert bins_R3.sum(0).tolist() == pytest.approx([4 * confidence, 2, 4])
    assert calibration.error(bins_R3) == pytest.approx(confidence - 0.5)


def test_logits_that_are_not_numbers_are_counted_and_make_the_error_none() -> None:
    logits_BC = torch.tensor([[4.0, 0.0], [torch.nan, 0.0]])
    bins_R3 = calibration.reliability(logits_BC, torch.tensor([0, 0]))
    assert bins_R3.sum(0)[2] == 2
    assert bins_R3[1:].isfinite().all()
    assert np.isnan(calibration.error(bins_R3))


def test_a_run_keeps_its_temperature_in_the_artifact_and_predicts_with_it(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, epochs=2)
    model = Model.load(tmp_path / "artifact")
    assert model.description.temperature == outcome.metrics["temperature"] != 1.0
    image = model.examples()[1]
    (calibrated,) = model.predict([image])
    model.calibrate(1.0)
    (plain,) = model.predict([image])
    assert isinstance(calibrated, Prediction) and isinstance(plain, Prediction)
    assert [label for label, _ in calibrated.labels] == [label for label, _ in plain.labels]
    expected = torch.tensor([score for _, score in plain.labels]).log() / outcome.metrics["temperature"]
    assert [score for _, score in calibrated.labels] == pytest.approx(expected.softmax(0).tolist(), rel=1e-4)


def test_the_test_metrics_are_those_of_the_calibrated_model(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, epochs=2)
    model = Model.load(tmp_path / "artifact")
    task = tasks.find("classifier")
    split = task.data.load(task.config.Config(epochs=2)).test
    images, targets, _ = split.batch(torch.arange(len(split)), None)
    answers = model.predict(list(images[:, 0].numpy()))
    rows = [dict(one.labels) for one in answers if isinstance(one, Prediction)]
    scores_BC = torch.tensor([[row[label] for label in model.description.labels] for row in rows])
    mine = calibration.error(calibration.reliability(scores_BC.log(), targets))
    assert mine == pytest.approx(outcome.metrics["ece"], abs=1e-5)
    assert outcome.metrics["ece_uncalibrated"] != outcome.metrics["ece"]


@pytest.mark.parametrize("word", ["classifier", "sentiment"])
def test_a_model_from_before_temperatures_is_loaded_as_it_was(tmp_path: Path, word: str) -> None:
    task = tasks.find(word)
    config = task.config.Config()
    model = task.model.Model.create(config, task.data.load(config))
    model.save(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings.pop("temperature", None)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    again = task.model.Model.load(tmp_path)
    scores = [[score for _, score in one.labels] for one in again.predict(again.examples())]
    expected = [[score for _, score in one.labels] for one in model.predict(model.examples())]
    assert np.allclose(scores, expected, atol=1e-6)


def test_a_task_without_logits_of_classes_is_left_as_it_is(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, training.REGRESSION, epochs=3)
    assert "temperature" not in outcome.metrics
