"""Drift is measured against the artifact's reference, in bounded memory, and seen by Prometheus while it is known."""

import json
import logging
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import endpoints
import numpy as np
import pytest
import training
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import ks_2samp

from eagerly.client import Client, Raw
from pipelines import reference, tasks
from pipelines.reference import CELLS, Histogram, Reference
from services import drift
from services.drift import LEAST_ITEMS, WINDOW_ITEMS, WINDOW_S, Sketch


def images(bright: int, count: int) -> list[np.ndarray]:
    """Random pixels around a brightness, as the untrained classifier takes them."""
    rng = np.random.default_rng(bright)
    level = rng.normal(bright, 10, (count, 1, 1))
    return list(np.clip(rng.normal(level, 20, (count, 28, 28)), 0, 255).astype(np.uint8))


def watched(bright: int) -> Any:
    """An untrained classifier with a reference of images around a brightness."""
    model = endpoints.classifier()
    return replace(endpoints.loaded("classifier", model), reference=reference.measure(model, images(bright, 600)))


def gauges(endpoint: endpoints.Endpoint) -> dict[tuple[str, str], float]:
    """The drift that Prometheus reads, by gauge and feature."""
    text = urllib.request.urlopen(endpoint.metrics).read().decode()
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples if "_drift_" in sample.name]
    assert all(sample.labels["service"] == "classifier" for sample in samples)
    return {(sample.name, sample.labels["feature"]): sample.value for sample in samples}


def call(endpoint: endpoints.Endpoint, shown: list[np.ndarray], until: Callable[[], bool]) -> None:
    """Has images classified over and over until something is seen."""
    given_up = time.monotonic() + 20
    with Client(endpoint.address) as client:
        while not until():
            assert time.monotonic() < given_up
            for start in range(0, len(shown), 16):
                client.classify([Raw(one.tobytes(), one.shape) for one in shown[start : start + 16]])
                time.sleep(0.005)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at as many batches as it can, so that tests need not wait."""
    for name, value in {"PAUSE_S": 0.0, "SHARE": 1.0, "PUBLISH_S": 0.05}.items():
        monkeypatch.setattr(drift, name, value)


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_ks_agrees_with_scipy_within_a_cell(shift: float) -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.gamma(2, 1, 3_000), rng.gamma(2, 1, 2_000) + shift
    found = Histogram.of(ours.tolist())
    expected: Any = ks_2samp(ours, theirs)
    assert found.ks(found.count(theirs.tolist())) == pytest.approx(expected.statistic, abs=1.5 / CELLS)


def test_psi_is_the_sum_worked_out_by_hand() -> None:
    found = Histogram.of(["a"] * 500 + ["b"] * 500, names=("a", "b"))
    expected = (0.8 - 0.5) * np.log(0.8 / 0.5) + (0.2 - 0.5) * np.log(0.2 / 0.5)
    assert found.psi(found.count(["a"] * 8_000 + ["b"] * 2_000)) == pytest.approx(expected, rel=1e-3)


def test_values_of_the_same_distribution_do_not_drift() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        found = Histogram.of(rng.normal(size=1_000).tolist())
        assert found.psi(found.count(rng.normal(size=LEAST_ITEMS).tolist())) < 0.1


@pytest.mark.parametrize("moved", [0.9, 1.1])
def test_a_feature_that_never_varied_drifts_to_either_side(moved: float) -> None:
    found = Histogram.of([1.0] * 200)
    same, other = found.count([1.0] * 600), found.count([moved] * 600)
    assert (found.psi(same), found.ks(same)) == (pytest.approx(0, abs=0.01), 0)
    assert found.psi(other) > 1 and found.ks(other) == 1


def test_what_is_no_number_and_what_lies_outside_counts_as_drift() -> None:
    found = Histogram.of(np.random.default_rng(3).normal(size=1_000).tolist())
    for odd in (float("nan"), float("inf"), float("-inf")):
        assert found.psi(found.count([odd] * 600)) > 0.25


def test_a_reference_is_the_same_after_writing_and_reading_and_small() -> None:
    rng = np.random.default_rng(4)
    features = {
        "size": Histogram.of(rng.normal(size=1_000).tolist()),
        "label": Histogram.of(["ä", "b"] * 99, ("b", "ä")),
    }
    text = Reference(features).to_json()
    assert Reference.from_json(text) == Reference(features)
    assert len(text) < 5_000


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"features": {"a": {"edges": [2, 1], "counts": [1, 1, 1]}}}', '{"features": {"a": {"edges": []}}}'],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"reference\.json is no reference"):
        Reference.from_json(text)


def test_a_window_forgets_and_takes_no_more_room() -> None:
    found = Reference({"size": Histogram.of(np.linspace(0, 1, 1_000).tolist())})
    sketch = Sketch(found, began=0.0)
    sketch.add({"size": [9.0] * WINDOW_ITEMS}, now=WINDOW_S)
    assert sketch.distances()["size"][1] == pytest.approx(1)
    for window in (1, 2):
        sketch.add({"size": np.linspace(0, 1, WINDOW_ITEMS).tolist()}, now=WINDOW_S * (1 + window))
    psi, ks = sketch.distances()["size"]
    assert psi < 0.01 and ks is not None and ks < 0.02


def test_a_window_that_is_old_but_holds_little_goes_on() -> None:
    sketch = Sketch(Reference({"size": Histogram.of(np.linspace(0, 1, 1_000).tolist())}), began=0.0)
    for day in range(LEAST_ITEMS):
        sketch.add({"size": [0.5]}, now=day * 86_400.0)
    assert "size" in sketch.distances()


def test_too_few_items_say_nothing() -> None:
    sketch = Sketch(Reference({"size": Histogram.of(np.linspace(0, 1, 1_000).tolist())}), began=0.0)
    sketch.add({"size": [9.0] * (LEAST_ITEMS - 1), "unheard of": [1.0] * LEAST_ITEMS}, now=1.0)
    assert sketch.distances() == {}
    sketch.add({"size": [9.0]}, now=1.0)
    assert list(sketch.distances()) == ["size"]


@pytest.mark.parametrize("word", tasks.TASKS)
def test_every_task_tells_the_features_of_its_own_validation_split(word: str) -> None:
    task = tasks.find(word)
    config = task.config.Config()
    data = task.data.load(config)
    model = task.model.Model.create(config, data)
    found = reference.measure(model, task.data.inputs(data))
    assert found is not None
    said = {"classifier": {"brightness", "contrast"}, "recommender": {"items"}}
    own = said.get(word, {"characters", "tokens", "unknown_ngrams"})
    assert set(found.features) == own | {"top_score"} | ({"label"} if word != "recommender" else set())
    assert all(sum(one.counts) <= reference.MOST_EXAMPLES for one in found.features.values())


def test_training_leaves_a_reference_in_the_artifact_where_there_are_examples_enough(tmp_path: Path) -> None:
    training.train(tmp_path / "digits", epochs=1)
    found = reference.read(tmp_path / "digits" / "artifact")
    assert found is not None and sum(found.features["label"].counts) == 181
    assert json.loads((tmp_path / "digits" / "artifact" / "MANIFEST.json").read_text())["files"][reference.FILE]
    training.train(tmp_path / "line", training.REGRESSION, epochs=1)
    assert reference.read(tmp_path / "line" / "artifact") is None


@pytest.mark.usefixtures("hasty")
def test_inputs_that_moved_show_and_gauges_go_with_the_model_they_were_of(tmp_path: Path) -> None:
    moved = images(200, 320)
    with endpoints.serving([watched(60)], tmp_path) as endpoint:
        call(endpoint, moved, until=lambda: ("eagerly_drift_ks", "top_score") in gauges(endpoint))
        found = gauges(endpoint)
        features = {"brightness", "contrast", "top_score"}
        assert set(found) == {("eagerly_drift_psi", one) for one in (*features, "label")} | {
            ("eagerly_drift_ks", one) for one in features
        }
        assert found["eagerly_drift_psi", "brightness"] > 0.25
        assert found["eagerly_drift_ks", "brightness"] == pytest.approx(1)
        slot = endpoint.server.slots["classifier"]
        endpoint.run(slot.swap(endpoints.loaded("classifier", endpoints.classifier())))
        assert gauges(endpoint) == {}
        endpoint.run(slot.swap(watched(200)))
        call(endpoint, moved, until=lambda: ("eagerly_drift_ks", "brightness") in gauges(endpoint))
        assert gauges(endpoint)["eagerly_drift_psi", "brightness"] < 0.1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("flags", [{}, {"drift": False}])
def test_no_reference_or_no_wish_means_no_gauges(tmp_path: Path, flags: dict[str, Any]) -> None:
    model = watched(60) if flags else endpoints.loaded("classifier", endpoints.classifier())
    with endpoints.serving([model], tmp_path, **flags) as endpoint:
        enough = time.monotonic() + 1.5
        call(endpoint, images(60, 320), until=lambda: time.monotonic() > enough)
        assert gauges(endpoint) == {}


@pytest.mark.usefixtures("hasty")
def test_a_feature_that_fails_is_logged_once_and_fails_no_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(type(endpoints.classifier())):
        def features(self, inputs: list, predictions: list) -> dict[str, list[float]]:
            raise ZeroDivisionError

    good = watched(60)
    model = good.model
    broken = replace(good, model=Broken(model.description, model.network, model.examples_NCHW))
    with endpoints.serving([broken], tmp_path) as endpoint, caplog.at_level(logging.ERROR, "services.drift"):
        call(endpoint, images(60, 64), until=lambda: any(one.name == "services.drift" for one in caplog.records))
        call(endpoint, images(60, 64), until=lambda: True)
        assert gauges(endpoint) == {}
    assert [record.message for record in caplog.records if record.name == "services.drift"] == [
        "the features of classifier failed; its drift is watched no more"
    ]


@pytest.mark.usefixtures("hasty")
def test_gauges_go_when_a_feature_begins_to_fail(tmp_path: Path) -> None:
    class Fragile(type(endpoints.classifier())):
        is_broken = False

        def features(self, inputs: list, predictions: list) -> dict[str, list[float]]:
            if self.is_broken:
                raise ZeroDivisionError
            return super().features(inputs, predictions)

    good = watched(60)
    fragile = Fragile(good.model.description, good.model.network, good.model.examples_NCHW)
    with endpoints.serving([replace(good, model=fragile)], tmp_path) as endpoint:
        call(endpoint, images(60, 320), until=lambda: ("eagerly_drift_ks", "top_score") in gauges(endpoint))
        fragile.is_broken = True
        call(endpoint, images(60, 64), until=lambda: gauges(endpoint) == {})
