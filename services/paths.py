"""Ways to run a model's network: the fastest that gives the same answers as the model as it is written, eager.

Each way is tried on the model's own examples, alone and as a batch, beside eager in turn, so that what else the
machine does slows both. One that fails, answers otherwise or is not clearly faster is refused, and eager stays.
"""

import copy
import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services import likeness

log = logging.getLogger(__name__)

EAGER = "eager"
ROUNDING = 1e-4
"""Most that a score may differ on a path of the same precision, where additions come in another order."""
MARGIN = 1.05
"""How many times faster than eager a path must be, over both sizes of batch."""
LOSS = 0.95
"""The least that it may be on either."""
ONE_CALL = 1.1
"""What a path is worth more whose network is one call, without Python between its operators. Under load each of these
waits for Python's lock, which CPU time does not show: of two paths as fast, such a one answered 1.1 times as many."""
BUDGET_S = 0.8
"""Seconds that the trials of a model usually take at the most."""
PATIENCE_S = 3.0
"""Seconds until each path of a slow model must have had its fewest rounds; nothing that might end later is begun."""
ROUNDS = 15
LEAST_ROUNDS = 3
FEW = 8
"""Items by whose time that of a full batch is foretold."""

Predict = Callable[[list[Any]], list[Any]]


@dataclass(frozen=True)
class Way:
    """A way to run a network that is not yet known to do."""

    name: str
    rewrite: Callable[[Any], Any]
    """Makes another network of the model's, which it leaves as it is; None when it can do nothing for it."""
    tolerance: float
    """Most that a score may differ from eager's."""
    worth: float = 1.0
    """What its times are divided by before it is compared with the others."""


@dataclass(frozen=True)
class Choice:
    """The path that is taken, and a few words on each that was tried."""

    name: str
    predict: Predict
    report: tuple[str, ...] = ()


class Runner:
    """Predicts by the path that is chosen; another takes over between two batches."""

    def __init__(self, model: Any) -> None:
        """Begins with the model as it is written."""
        self.choice = Choice(EAGER, model.predict)

    def __call__(self, inputs: list[Any]) -> list[Any]:
        """Predicts a batch."""
        return self.choice.predict(inputs)


@dataclass
class Trial:
    """A path while it is tried."""

    name: str
    worth: float = 1.0
    """Its way's."""
    predict: Predict | None = None
    refusal: str = ""
    """Why it is not taken; empty while nothing speaks against it."""
    alone_s: list[float] = field(default_factory=list)
    """Seconds that a single item took, by round."""
    full_s: list[float] = field(default_factory=list)
    """Seconds that a batch took, by round."""

    def run(self, full: list[Any], clock: Callable[[], float]) -> None:
        """Adds a round to the figures."""
        assert self.predict is not None
        for inputs, seconds in ((full[:1], self.alone_s), (full, self.full_s)):
            began = clock()
            self.predict(inputs)
            seconds.append(clock() - began)

    def gains(self, eager: "Trial") -> tuple[float, float]:
        """How many times faster than eager it is on a single item and on a batch; medians over the rounds."""
        pairs = ((eager.alone_s, self.alone_s), (eager.full_s, self.full_s))
        alone, full = (statistics.median(a / b for a, b in zip(*pair, strict=True)) for pair in pairs)
        return alone, full


def ways(word: str, tolerance: float) -> tuple[Way, ...]:
    """Gives the ways that a word of --paths stands for, with the tolerance of those of less precision."""
    if word == "eager":
        return ()
    from services import rewrites

    exact = (
        Way("torchscript", rewrites.scripted, ROUNDING, ONE_CALL),
        Way("traced", rewrites.traced, ROUNDING, ONE_CALL),
        Way("packed", rewrites.packed, ROUNDING),
        Way("channels-last", rewrites.channels_last, ROUNDING),
    )
    return (*exact, Way("bfloat16", rewrites.bfloat16, tolerance)) if word == "fast" else exact


def choose(
    model: Any,
    full: list[Any],
    ways: tuple[Way, ...],
    budget_s: float = BUDGET_S,
    patience_s: float = PATIENCE_S,
) -> Choice:
    """Tries ways on a full batch of inputs that the model takes; blocks for about the budget.

    A batch for which the budget is too short is cut; a model that is slow even so has until patience_s for the fewest
    rounds that tell something. The model must have been warmed up.
    """
    now = time.monotonic()
    usual, last = now + budget_s, now + max(budget_s, patience_s)
    eager = Trial(EAGER, predict=model.predict)
    if not ways or not hasattr(model, "network"):
        return Choice(EAGER, model.predict)
    full = _affordable(model, full, (len(ways) + 1) * (LEAST_ROUNDS + 2), budget_s)
    expected = (model.predict(full[:1]), model.predict(full))
    trials, longest_s = [], 0.0
    for way in ways:
        began = time.monotonic()
        if began + longest_s > last:
            trials.append(Trial(way.name, way.worth, refusal="no time to try it"))
            continue
        trials.append(_trial(way, model, full, expected))
        longest_s = max(longest_s, time.monotonic() - began)
    _measure(eager, trials, full, _clock(model.network), (usual, last))
    return _fastest(eager, trials)


def _affordable(model: Any, full: list[Any], run_count: int, budget_s: float) -> list[Any]:
    """Shortens a batch until so many runs of it take less than the budget, by the time that a few items take."""
    few = full[:FEW]
    began = time.monotonic()
    model.predict(few)
    needed_s = (time.monotonic() - began) / len(few) * len(full) * run_count
    return full if needed_s <= budget_s else full[: max(1, int(len(full) * budget_s / needed_s))]


def _trial(way: Way, model: Any, full: list[Any], expected: tuple[list[Any], list[Any]]) -> Trial:
    """Goes a way and holds its answers against eager's."""
    trial = Trial(way.name, way.worth)
    try:
        network = way.rewrite(model.network)
        if network is None:
            trial.refusal = "nothing to do"
            return trial
        twin = copy.copy(model)
        twin.network = network
        trial.predict = twin.predict
        for inputs, wanted in zip((full[:1], full), expected, strict=True):
            if not likeness.same(wanted, twin.predict(inputs), way.tolerance):
                trial.refusal = "answers otherwise"
    except Exception as problem:
        _fail(trial, problem)
    return trial


def _measure(
    eager: Trial, trials: list[Trial], full: list[Any], clock: Callable[[], float], until: tuple[float, float]
) -> None:
    """Times eager and the paths that nothing speaks against in turn.

    until: when the rounds end, and when even the fewest rounds do.
    """
    usual, last = until
    round_s = 0.0
    for number in range(ROUNDS):
        able = [trial for trial in trials if not trial.refusal]
        began = time.monotonic()
        if not able or began + round_s > (last if number < LEAST_ROUNDS else usual):
            return
        eager.run(full, clock)
        for trial in able:
            try:
                trial.run(full, clock)
            except Exception as problem:
                _fail(trial, problem)
        round_s = max(round_s, time.monotonic() - began)


def _clock(network: Any) -> Callable[[], float]:
    """Takes this thread's CPU time where it computes all by itself: the machine's other work hardly shows in it."""
    import torch

    alone = torch.get_num_threads() == 1 and is_on_cpu(network)
    return time.thread_time if alone else time.perf_counter


def is_on_cpu(network: Any) -> bool:
    """Says whether all of a network's tensors are on the CPU."""
    return all(one.device.type == "cpu" for one in (*network.parameters(), *network.buffers()))


def _fastest(eager: Trial, trials: list[Trial]) -> Choice:
    """Takes the path worth most if it is clearly faster than eager, and says why the others are not taken."""
    assert eager.predict is not None
    best, predict, best_gain, report = eager.name, eager.predict, 0.0, []
    for trial in trials:
        if trial.refusal or trial.predict is None or len(trial.full_s) < LEAST_ROUNDS:
            report.append(f"{trial.name}: {trial.refusal or 'no time to measure it'}")
            continue
        alone, full = trial.gains(eager)
        gain = math.sqrt(alone * full) * trial.worth
        report.append(f"{trial.name}: {alone:.2f} times as fast alone, {full:.2f} in a batch")
        if gain >= MARGIN and min(alone, full) * trial.worth >= LOSS and gain > best_gain:
            best, predict, best_gain = trial.name, trial.predict, gain
    return Choice(best, predict, tuple(report))


def _fail(trial: Trial, problem: Exception) -> None:
    log.debug("path %s failed", trial.name, exc_info=problem)
    trial.refusal = f"failed with {type(problem).__name__}"
