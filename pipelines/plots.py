"""Pictures of a run, drawn from its journal and its test statistics."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.journal import Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from pipelines.trials import Trial

FEW_CLASSES = 25
"""Up to so many classes, the confusion matrix has its numbers written in."""


def draw(events: list[Event], statistics: "Mapping[str, NDArray[Any]]", labels: list[str]) -> "dict[str, Figure]":
    """Draws the loss curves and, where the statistics hold them, confusion matrix and reliability diagram.

    `labels` names the classes; empty numbers them.
    """
    figures = {"loss": _loss(events)}
    if "confusion" in statistics:
        figures["confusion_matrix"] = _confusion(statistics["confusion"], labels)
    if "reliability" in statistics:
        figures["reliability"] = _reliability(statistics["reliability"], statistics.get("uncalibrated"))
    return figures


def save(figures: "Mapping[str, Figure]", folder: Path) -> None:
    """Writes figures as NAME.png below a folder."""
    folder.mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")


def _figure(title: str, x: str, y: str, size: float = 5.0) -> "tuple[Figure, Any]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size * 1.2, size), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _loss(events: list[Event]) -> "Figure":
    figure, axes = _figure("Loss", "step", "loss")
    train = {
        event["first"] + number: loss
        for event in events
        if event["event"] == "steps"
        for number, loss in enumerate(event["losses"])
    }
    valid = {e["step"]: e["metrics"]["loss"] for e in events if e["event"] == "epoch" and "loss" in e["metrics"]}
    axes.plot(list(train), list(train.values()), linewidth=0.6, alpha=0.7, label="train, each step")
    axes.plot(list(valid), list(valid.values()), marker="o", label="valid, each epoch")
    axes.legend()
    return figure


def _confusion(counts_CC: "NDArray[Any]", labels: list[str]) -> "Figure":
    size = len(counts_CC)
    figure, axes = _figure("Confusion matrix, test", "predicted", "true", size=min(12.0, 4.0 + 0.25 * size))
    shares_CC = counts_CC / counts_CC.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares_CC, cmap="Blues", vmin=0, vmax=1)
    if len(labels) == size:
        axes.set_xticks(range(size), labels, rotation=90)
        axes.set_yticks(range(size), labels)
    if size <= FEW_CLASSES:
        for row in range(size):
            for column in range(size):
                colour = "white" if shares_CC[row, column] > 0.5 else "black"
                axes.text(column, row, f"{counts_CC[row, column]:.0f}", ha="center", va="center", color=colour)
    return figure


def _reliability(bins_K3: "NDArray[Any]", uncalibrated_K3: "NDArray[Any] | None") -> "Figure":
    figure, axes = _figure("Reliability, test", "confidence", "accuracy")
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfectly calibrated")
    for name, counted_K3 in (("before calibration", uncalibrated_K3), ("model", bins_K3)):
        if counted_K3 is not None:
            filled_K3 = counted_K3[counted_K3[:, 2] > 0]
            counts_K = filled_K3[:, 2]
            axes.plot(filled_K3[:, 0] / counts_K, filled_K3[:, 1] / counts_K, marker="o", label=name)
    axes.legend()
    return figure


def draw_trials(
    tried: "list[Trial]", curves: "Mapping[int, Mapping[int, Mapping[str, float]]]", best: int
) -> "dict[str, Figure]":
    """Draws a search: each trial's validation metrics over its epochs, and its settings beside its last metric.

    curves: metrics by trial and epoch. best: the number of the trial that stands out.
    """
    names = sorted({name for curve in curves.values() for metrics in curve.values() for name in metrics})
    figures = {f"trials_{name}": _curves(name, curves, best) for name in names}
    done = [trial for trial in tried if trial.epochs]
    if done:
        figures["settings"] = _settings(done, best)
    return figures


def _curves(name: str, curves: "Mapping[int, Mapping[int, Mapping[str, float]]]", best: int) -> "Figure":
    figure, axes = _figure(f"Trials: valid {name}", "epoch", name)
    for number, curve in curves.items():
        is_best = number == best
        style: dict[str, Any] = {"color": "tab:red", "linewidth": 2.0} if is_best else {"alpha": 0.4, "linewidth": 1.0}
        values = [metrics[name] for metrics in curve.values()]
        axes.plot(
            list(curve), values, marker="o", markersize=3, label=f"best: {number + 1}" if is_best else None, **style
        )
    axes.legend()
    return figure


def _settings(tried: "list[Trial]", best: int) -> "Figure":
    """One panel a setting: its value across, the metric of the trial's last epoch up, darker the longer it ran."""
    from matplotlib.figure import Figure

    names = sorted({name for trial in tried for name in trial.values})
    figure = Figure(figsize=(3.0 * len(names), 3.2), layout="constrained")
    longest = max(trial.epochs for trial in tried)
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), number, xlabel=name, ylabel="last metric" if number == 1 else "")
        values = [trial.values[name] for trial in tried]
        if any(isinstance(value, str | bool) for value in values):
            values = [str(value) for value in values]
        elif min(values) > 0 and max(values) / min(values) > 20:
            axes.set_xscale("log")
        colours = ["tab:red" if trial.number == best else "tab:blue" for trial in tried]
        style: dict[str, Any] = {"alpha": [trial.epochs / longest for trial in tried]}  # one for each point
        axes.scatter(values, [trial.value for trial in tried], c=colours, s=18, **style)
    return figure
