"""What a classifier trained on the embedded digits must do."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import loop, tasks
from pipelines.classifier import data
from pipelines.classifier.config import Config
from pipelines.classifier.model import Model, Prediction
from pipelines.place import Place


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classifier")


@pytest.fixture(scope="module")
def metrics(run_dir: Path) -> dict[str, float]:
    return loop.run(tasks.find("classifier"), Config(), run_dir, Place())


@pytest.fixture(scope="module")
def model(run_dir: Path, metrics: dict[str, float]) -> Model:
    return Model.load(run_dir / "artifact")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, list[str]]:
    test = data.load(Config()).test
    batch = test.batch(torch.arange(len(test)), None)
    return batch.images[:, 0].numpy(), [str(target) for target in batch.targets.tolist()]


def best(model: Model, images: np.ndarray) -> list[str]:
    predictions = model.predict(list(images))
    return [one.labels[0][0] for one in predictions if isinstance(one, Prediction)]


def share(found: list[str], expected: list[str]) -> float:
    return sum(one == other for one, other in zip(found, expected, strict=True)) / len(expected)


def test_digits_are_told_apart(metrics: dict[str, float]) -> None:
    assert metrics["accuracy"] >= 0.97
    assert metrics["macro_f1"] >= 0.97


def test_probabilities_mean_what_they_say(metrics: dict[str, float]) -> None:
    assert metrics["ece"] <= 0.06


def test_the_served_model_is_as_good_as_the_trained_one(
    model: Model, metrics: dict[str, float], digits: tuple[np.ndarray, list[str]]
) -> None:
    images, labels = digits
    assert share(best(model, images), labels) == pytest.approx(metrics["accuracy"])


@pytest.mark.parametrize("step", [-1, 1])
def test_a_shift_by_a_pixel_changes_few_digits(model: Model, digits: tuple[np.ndarray, list[str]], step: int) -> None:
    images, labels = digits
    shifted = np.zeros_like(images)
    source, target = (slice(1, None), slice(None, -1)) if step < 0 else (slice(None, -1), slice(1, None))
    shifted[:, target] = images[:, source]
    assert share(best(model, shifted), labels) >= 0.8


def test_fainter_ink_is_the_same_digit(model: Model, digits: tuple[np.ndarray, list[str]]) -> None:
    images, labels = digits
    assert share(best(model, (images * 0.8).astype(np.uint8)), labels) >= 0.95


def test_blank_and_inverted_images_get_an_answer(model: Model, digits: tuple[np.ndarray, list[str]]) -> None:
    images, _ = digits
    odd = [np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8), 255 - images[0]]
    for prediction in model.predict(odd):
        assert isinstance(prediction, Prediction)
        assert sum(score for _, score in prediction.labels) == pytest.approx(1)
        assert all(0 <= score <= 1 for _, score in prediction.labels)


def test_the_examples_are_recognised(model: Model) -> None:
    predictions = model.predict(model.examples())
    assert [one.labels[0][0] for one in predictions if isinstance(one, Prediction)] == model.expected
