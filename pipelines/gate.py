"""Whether a new version may become champion: both models' results on the same test examples, held against each other.

The rule is that of docs/gate.md. Knows arrays alone: neither mlflow nor torch.
Shapes: N test examples, R resamples of them, K of a chunk, S slices of a kind, C labels.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import resampling
from pipelines.resampling import Floats, Ints
from pipelines.verdict import Answers, Calibration, Interval, Pair, Rules, Slice, Verdict

ECE_MARGIN = 0.01
"""Expected calibration error may rise by so much before it counts as worse."""
F1 = "macro_f1"
"""The primary metric that is no mean over examples: it is worked out anew from each resample's counts."""
BINS = 15
"""Bins of confidence, as calibration.py has them."""


def decide(pair: Pair, rules: Rules, seed: int, old: str = "the champion", notes: tuple[str, ...] = ()) -> Verdict:
    """Judges a new version; the same arrays, rules and seed give the same verdict.

    `old` names the champion in the reason. Raises ValueError where there is no test example.
    """
    count = len(pair.ours.score)
    if not count:
        raise ValueError("there is no test example that both models could be judged on")
    change_N = pair.ours.score - pair.theirs.score
    slices = [Sliced(kind, names, code_N, change_N) for kind, (names, code_N) in pair.slices.items()]
    draws = resampling.draw(_statistics(pair, slices), count, seed)
    ours, theirs = metric(pair, pair.ours), metric(pair, pair.theirs)
    difference = _interval(ours - theirs, draws["primary"], rules.confidence)
    judged = _judge_slices(pair, slices, draws, rules)
    calibration = _judge_calibration(pair, draws, rules.confidence)
    gained, lost = int((change_N > 0).sum()), int((change_N < 0).sum())
    problems = [*_not_better(difference, gained + lost, _same(pair), rules), *_fallen(judged), *_worse(calibration)]
    figures = f"{pair.primary} {ours:.4f} against {theirs:.4f} of {old} on the same {count} test examples"
    interval = f"difference {difference} at {rules.confidence * 100:g} %"
    reason = f"champion: {figures}; {interval}; {_held(judged, calibration, rules)}"
    if problems:
        reason = f"not champion: {figures}; {interval}; {'; '.join(problems)}"
    figures = (pair.primary, ours, theirs, count, difference, tuple(judged), calibration, gained, lost)
    return Verdict(not problems, reason, notes, *figures, draws["primary"])


class Sliced:
    """The slices of a kind, and how the metric changed on each."""

    def __init__(self, kind: str, names: list[str], code_N: Ints, change_N: Floats) -> None:
        """Counts examples and sums changes by slice."""
        self.kind, self.names, self.code_N = kind, names, code_N
        self.count_S = np.bincount(code_N, minlength=len(names))
        present_S = np.maximum(self.count_S, 1)
        self.mean_S = np.bincount(code_N, change_N, len(names)) / present_S
        self.apart_N = change_N - self.mean_S[code_N]
        doubt = np.abs(change_N).max() ** 2
        self.error_S = np.sqrt(np.bincount(code_N, self.apart_N**2, len(names)) + doubt) / present_S
        """Standard errors, as if one example more had changed by as much as any did."""

    def farthest(self, weights_KN: Floats) -> Floats:
        """Gives, by resample, how many standard errors the worst resampled slice is off [K]."""
        scale_N = np.divide(1, (self.count_S * self.error_S)[self.code_N])
        off_KS = resampling.grouped(weights_KN, self.apart_N * scale_N, self.code_N, len(self.names))
        return np.abs(off_KS).max(axis=1)


def metric(pair: Pair, answers: Answers) -> float:
    """Works out the primary metric of a model on the test examples of a pair."""
    if pair.primary != F1:
        return float(answers.score.mean())
    return float(_f1(pair, answers)(np.ones((1, len(answers.score))))[0])


def _statistics(pair: Pair, slices: list[Sliced]) -> dict[str, Callable[[Floats], Floats]]:
    """Lists what is worked out of each resample, given as how often each example is in it [K, N]."""
    ours, theirs, count = pair.ours, pair.theirs, len(pair.ours.score)
    change_N = ours.score - theirs.score
    found: dict[str, Callable[[Floats], Floats]] = {"primary": lambda weights_KN: weights_KN @ change_N / count}
    if pair.primary == F1:
        own, other = _f1(pair, ours), _f1(pair, theirs)
        found["primary"] = lambda weights_KN: own(weights_KN) - other(weights_KN)
    if ours.brier is not None and theirs.brier is not None:
        brier_N = ours.brier - theirs.brier
        found["brier"] = lambda weights_KN: weights_KN @ brier_N / count
    if ours.confidence is not None and theirs.confidence is not None:
        mine, their = _ece(ours, pair.target), _ece(theirs, pair.target)
        found["ece"] = lambda weights_KN: mine(weights_KN) - their(weights_KN)
    if slices and change_N.any():
        found["slices"] = lambda weights_KN: np.max([one.farthest(weights_KN) for one in slices], axis=0)
    return found


def _f1(pair: Pair, answers: Answers) -> Callable[[Floats], Floats]:
    """Makes the mean F1 over labels that are present or guessed, from resampled confusion counts."""
    target_N, guess_N = pair.target, answers.guess
    assert target_N is not None and guess_N is not None, "F1 is of a task with labels"
    size = int(max(target_N.max(), guess_N.max())) + 1
    right_N = (target_N == guess_N).astype(np.float64)

    def measured(weights_KN: Floats) -> Floats:
        ones_N = np.ones(len(target_N))
        both_KC = resampling.grouped(weights_KN, ones_N, target_N, size)
        both_KC += resampling.grouped(weights_KN, ones_N, guess_N, size)
        f1_KC = 2 * resampling.grouped(weights_KN, right_N, target_N, size) / np.maximum(both_KC, 1)
        return f1_KC.sum(axis=1) / np.maximum((both_KC > 0).sum(axis=1), 1)

    return measured


def _ece(answers: Answers, target_N: NDArray[Any] | None) -> Callable[[Floats], Floats]:
    """Makes the expected calibration error of resamples (Guo et al., 2017)."""
    assert answers.confidence is not None and target_N is not None, "calibration is of a task with labels"
    bin_N = bins(answers.confidence)
    gap_N = answers.confidence - (answers.guess == target_N)
    return lambda weights_KN: np.abs(resampling.grouped(weights_KN, gap_N, bin_N, BINS)).sum(axis=1) / len(gap_N)


def bins(confidence_N: Floats) -> Ints:
    """Sorts confidence, 0 to 1, into BINS bins; what is no number lies in the first."""
    return np.clip((np.nan_to_num(confidence_N) * BINS).astype(np.int64), 0, BINS - 1)


def _interval(estimate: float, draws_R: Floats, confidence: float) -> Interval:
    low, high = np.quantile(draws_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high))


def _judge_slices(pair: Pair, slices: list[Sliced], draws: Mapping[str, Floats], rules: Rules) -> list[Slice]:
    """Gives every slice an interval; all hold together with the confidence asked for."""
    reach = float(np.quantile(draws["slices"], rules.confidence)) if "slices" in draws else 0.0
    found = []
    for one in slices:
        ours_S, theirs_S = (
            np.bincount(one.code_N, answers.score, len(one.names)) / np.maximum(one.count_S, 1)
            for answers in (pair.ours, pair.theirs)
        )
        for at in np.flatnonzero(one.count_S).tolist():
            mean, wide = float(one.mean_S[at]), reach * float(one.error_S[at])
            fell = mean < -rules.slice_margin and mean + wide < 0
            state = "fell" if fell else "open" if mean - wide < -rules.slice_margin else "held"
            means = (int(one.count_S[at]), float(ours_S[at]), float(theirs_S[at]))
            found.append(Slice(one.kind, one.names[at], *means, Interval(mean, mean - wide, mean + wide), state))
    return found


def _judge_calibration(pair: Pair, draws: Mapping[str, Floats], confidence: float) -> tuple[Calibration, ...]:
    found, once = [], np.ones((1, len(pair.ours.score)))
    if "brier" in draws and pair.ours.brier is not None and pair.theirs.brier is not None:
        ours, theirs = float(pair.ours.brier.mean()), float(pair.theirs.brier.mean())
        difference = _interval(ours - theirs, draws["brier"], confidence)
        found.append(Calibration("Brier score", ours, theirs, difference, not difference.low <= 0))
    if "ece" in draws:
        ours, theirs = (float(_ece(answers, pair.target)(once)[0]) for answers in (pair.ours, pair.theirs))
        centred_R = draws["ece"] - draws["ece"].mean() + ours - theirs  # a resample repeats examples, which raises it
        difference = _interval(ours - theirs, centred_R, confidence)
        worse = not (difference.low <= 0 or difference.estimate <= ECE_MARGIN)
        found.append(Calibration("expected calibration error", ours, theirs, difference, worse))
    return tuple(found)


def _same(pair: Pair) -> bool:
    """Says whether both models gave the same answer to every example."""
    if pair.ours.guess is not None and pair.theirs.guess is not None:
        return bool((pair.ours.guess == pair.theirs.guess).all())
    return bool((pair.ours.score == pair.theirs.score).all())


def least_changes(confidence: float) -> int:
    """Says how many examples must have changed to tell anything: all to the better is else too likely by chance."""
    return math.ceil(math.log2(2 / (1 - confidence)))


def _not_better(difference: Interval, changes: int, same: bool, rules: Rules) -> list[str]:
    least = least_changes(rules.confidence)
    if same:
        return ["no better: both say the same of every test example"]
    if difference.high < 0:
        return ["it is worse"]
    if difference.low <= rules.margin or not math.isfinite(difference.low):
        return [f"no better: the interval must lie above {rules.margin:g}"]
    if changes < least:
        return [f"no better: {changes} test examples changed, and it takes {least} to tell that from chance"]
    return []


def _fallen(slices: list[Slice]) -> list[str]:
    fallen = sorted((one for one in slices if one.state == "fell"), key=lambda one: one.difference.estimate)
    more = f" and on {len(fallen) - 3} slices more" if len(fallen) > 3 else ""
    return [f"it falls on {', on '.join(map(str, fallen[:3]))}{more}"] if fallen else []


def _worse(calibration: tuple[Calibration, ...]) -> list[str]:
    return [f"calibration is worse: {one.name} {one.difference}" for one in calibration if one.worse]


def _held(slices: list[Slice], calibration: tuple[Calibration, ...], rules: Rules) -> str:
    count = sum(one.state == "open" for one in slices)
    told = [f"none of {len(slices)} slices fell" if slices else "no slices"]
    told += [f"{count} of them too small to rule out a fall of {rules.slice_margin:g}"] if count else []
    return "; ".join([", ".join(told), *(["calibration no worse"] if calibration else [])])
