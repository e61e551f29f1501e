"""Pictures of a verdict: the difference, the slices, and how honest both models' confidence is.

Shapes: N test examples, B bins of confidence.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.gate import BINS, bins
from pipelines.verdict import Answers, Pair, Rules, Slice, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"fell": "#b3261e", "held": "#1f7a3d", "open": "#8a8a8a"}


def difference(verdict: Verdict, rules: Rules) -> "Figure":
    """Draws how the difference falls out in the resamples, its interval, and what it must exceed."""
    from matplotlib.figure import Figure

    assert verdict.draws is not None and verdict.difference is not None, "only a verdict on examples has draws"
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot(xlabel=f"{verdict.primary}, new version less champion", ylabel="resamples")
    axes.hist(verdict.draws, bins=60, color="#c9d7ee")
    found = verdict.difference
    height = axes.get_ylim()[1] / 2
    error = [[found.estimate - found.low], [found.high - found.estimate]]
    colour = COLOURS["held" if found.low > rules.margin else "fell" if found.high < 0 else "open"]
    axes.errorbar([found.estimate], [height], xerr=np.clip(error, 0, None), fmt="o", color=colour, capsize=5)
    axes.axvline(rules.margin, color="black", linestyle="--", linewidth=1)
    return figure


def forest(slices: Sequence[Slice], rules: Rules) -> "Figure":
    """Draws each slice's difference with its interval, the greatest fall on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.28 * len(slices)), layout="constrained")
    axes = figure.add_subplot(xlabel="difference on the slice, new version less champion")
    for row, one in enumerate(reversed(slices)):
        found = one.difference
        error = [[found.estimate - found.low], [found.high - found.estimate]]
        axes.errorbar([found.estimate], [row], xerr=error, fmt="s", color=COLOURS[one.state], capsize=3, markersize=4)
    axes.set_yticks(range(len(slices)), [f"{one.kind}: {one.name[:40]} (n={one.count})" for one in reversed(slices)])
    axes.axvline(0, color="black", linewidth=1)
    axes.axvline(-rules.slice_margin, color=COLOURS["fell"], linestyle="--", linewidth=1)
    return figure


def reliability(pair: Pair) -> "Figure":
    """Draws accuracy against confidence of both models, and how many examples each bin holds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    for name, answers, colour in (("champion", pair.theirs, "#8a8a8a"), ("new version", pair.ours, "#2b5fb3")):
        count_B, confidence_B, right_B = _bins(answers, pair)
        axes.plot(confidence_B, right_B, marker="o", color=colour, label=name, markersize=4)
        for count, x, y in zip(count_B, confidence_B, right_B, strict=True):
            axes.annotate(str(int(count)), (x, y), xytext=(4, -8), textcoords="offset points", size=7, color=colour)
    axes.legend(loc="upper left")
    return figure


def _bins(answers: Answers, pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives count, mean confidence and accuracy of the bins that hold an example."""
    assert answers.confidence is not None, "calibration is of a task with labels"
    bin_N = bins(answers.confidence)
    count_B = np.bincount(bin_N, minlength=BINS)
    filled_B = count_B > 0
    sure_B, right_B = (
        np.bincount(bin_N, values, BINS)[filled_B] / count_B[filled_B]
        for values in (answers.confidence, answers.guess == pair.target)
    )
    return count_B[filled_B], sure_B, right_B
