"""Pictures of a run are drawn from its journal and statistics."""

import io
from typing import Any

import numpy as np
import pytest

from pipelines import plots

EVENTS: list[dict[str, Any]] = [
    {"event": "steps", "first": 0, "losses": [2.0, 1.0]},
    {"event": "epoch", "step": 2, "metrics": {"loss": 0.9}},
    {"event": "steps", "first": 2, "losses": [0.5]},
]


def test_every_run_has_loss_curves() -> None:
    figures = plots.draw(EVENTS, {}, [])
    assert list(figures) == ["loss"]
    train, valid = figures["loss"].axes[0].get_lines()
    assert np.asarray(train.get_ydata()).tolist() == [2.0, 1.0, 0.5]
    assert np.asarray(valid.get_xdata()).tolist() == [2]
    _is_png(figures["loss"])


@pytest.mark.parametrize("labels", [["cat", "dog"], []])
def test_a_confusion_matrix_has_its_counts_and_labels(labels: list[str]) -> None:
    figures = plots.draw(EVENTS, {"confusion": np.array([[5.0, 1.0], [0.0, 0.0]])}, labels)
    axes = figures["confusion_matrix"].axes[0]
    assert [text.get_text() for text in axes.texts] == ["5", "1", "0", "0"]
    assert [text.get_text() for text in axes.get_xticklabels()][:2] == labels or not labels
    _is_png(figures["confusion_matrix"])


def test_many_classes_are_drawn_without_numbers() -> None:
    figures = plots.draw(EVENTS, {"confusion": np.eye(60)}, [])
    assert not figures["confusion_matrix"].axes[0].texts


def test_a_reliability_diagram_leaves_empty_bins_out() -> None:
    bins_K3 = np.array([[0.0, 0.0, 0.0], [1.5, 1.0, 2.0], [3.6, 4.0, 4.0]])
    figures = plots.draw(EVENTS, {"reliability": bins_K3}, [])
    _, model = figures["reliability"].axes[0].get_lines()
    assert np.asarray(model.get_xdata()).tolist() == [0.75, 0.9]
    assert np.asarray(model.get_ydata()).tolist() == [0.5, 1.0]
    _is_png(figures["reliability"])


def _is_png(figure: Any) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    assert picture.getvalue().startswith(b"\x89PNG")
