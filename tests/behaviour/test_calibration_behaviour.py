"""What trained models must do with confidence and drift, on real data that they never saw."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import loop, reference, tasks
from pipelines.place import Place
from pipelines.reference import Reference
from pipelines.sentiment import table
from pipelines.sentiment.data import SAMPLE, rows_of, split

STEADY, DRIFTED = 0.1, 0.25
"""PSI below the first means no drift, above the second a clear one (docs/drift.md)."""


@dataclass
class Trained:
    """A run of the default settings."""

    model: Any
    reference: Reference
    metrics: dict[str, float]
    config: Any


def trained(word: str, folder: Path, **flags: Any) -> Trained:
    task = tasks.find(word)
    config = task.config.Config(**flags)
    metrics = loop.run(task, config, folder, Place())
    found = reference.read(folder / "artifact")
    assert found is not None
    return Trained(task.model.Model.load(folder / "artifact"), found, metrics, config)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained("classifier", tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained("sentiment", tmp_path_factory.mktemp("sentiment"))


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained("recommender", tmp_path_factory.mktemp("recommender"), dim=64, epochs=2, batch_size=128)


@pytest.fixture(scope="module")
def digits(classifier: Trained) -> np.ndarray:
    """The test split's pixels."""
    test = tasks.find("classifier").data.load(classifier.config).test
    return test.batch(torch.arange(len(test)), None).images[:, 0].numpy()


def psi(run: Trained, inputs: list[Any]) -> dict[str, float]:
    """Drift of each feature when a model is asked these inputs."""
    values = reference.observe(run.model, inputs, run.model.predict(inputs))
    return {name: run.reference.features[name].psi(run.reference.features[name].count(values[name])) for name in values}


def steady(found: dict[str, float]) -> bool:
    return max(found.values()) < STEADY


def test_digits_never_seen_do_not_drift(classifier: Trained, digits: np.ndarray) -> None:
    assert steady(psi(classifier, list(digits)))


def test_inverted_digits_drift_in_brightness_and_confidence(classifier: Trained, digits: np.ndarray) -> None:
    found = psi(classifier, list(255 - digits))
    assert found["brightness"] > DRIFTED and found["top_score"] > DRIFTED
    assert found["contrast"] < STEADY  # inverting leaves it as it is


def test_noisy_digits_drift_in_contrast(classifier: Trained, digits: np.ndarray) -> None:
    noise = np.random.default_rng(0).normal(0, 60, digits.shape)
    found = psi(classifier, list(np.clip(digits + noise, 0, 255).astype(np.uint8)))
    assert found["contrast"] > DRIFTED and found["top_score"] > DRIFTED


def test_a_file_drifts_as_its_pixels_do(classifier: Trained, digits: np.ndarray) -> None:
    from pipelines.classifier import images

    files = [images.to_png(digit[None]) for digit in digits]
    assert psi(classifier, files) == psi(classifier, list(digits))


def test_reviews_never_seen_do_not_drift(sentiment: Trained) -> None:
    rows = rows_of(sentiment.config)
    _, _, test = split([text for text, *_ in rows], sentiment.config.seed)
    assert steady(psi(sentiment, [rows[at][0] for at in test]))


def test_chinese_alone_drifts_from_a_sample_that_is_mostly_english(sentiment: Trained) -> None:
    found = psi(sentiment, [text for text, *_ in table.read(SAMPLE / "asap-zh.csv", ("text", "label"))])
    assert found["characters"] > DRIFTED and found["tokens"] > DRIFTED


def test_finance_tweets_drift_from_film_reviews(sentiment: Trained, shared_data: Path) -> None:
    file = shared_data / "twitter-financial-news-sentiment" / "sent_valid.csv"
    found = psi(sentiment, [text for text, *_ in table.read(file, ("text", "label"))])
    assert found["unknown_ngrams"] > DRIFTED


def test_film_reviews_beyond_the_sample_hardly_drift(sentiment: Trained, shared_data: Path) -> None:
    with zipfile.ZipFile(next((shared_data / "sentence-polarity").glob("*.zip"))) as archive:
        names = [name for name in archive.namelist() if name.endswith((".neg", ".pos"))]
        lines = [line for name in names for line in archive.read(name).decode("latin-1").splitlines() if line.strip()]
    assert max(psi(sentiment, lines[::8]).values()) < DRIFTED


def test_users_do_not_drift_and_strangers_with_one_item_do(recommender: Trained) -> None:
    from pipelines.recommender.model import Query

    users, items = recommender.model.catalogue.user_ids, recommender.model.catalogue.item_ids
    assert steady(psi(recommender, [Query(user_id=user) for user in users[::2]]))
    assert psi(recommender, [Query(item_ids=[item]) for item in items])["items"] > DRIFTED


def test_calibration_helps_where_a_model_was_too_sure(tmp_path: Path) -> None:
    overfit = {"label_smoothing": 0.0, "augment": False, "dropout": 0.0, "epochs": 30, "arch": "article"}
    found = trained("classifier", tmp_path, **overfit).metrics
    assert found["temperature"] != 1 and found["ece"] <= found["ece_uncalibrated"] + 0.01


def test_a_calibrated_sentiment_model_means_what_it_says(sentiment: Trained) -> None:
    assert sentiment.metrics["ece"] < 0.06
    assert sentiment.metrics["ece"] < sentiment.metrics["ece_uncalibrated"]
