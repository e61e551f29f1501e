"""What happens after steps that were not finite: a ladder from skipping them to stopping, exact under resume.

1. The step is skipped (steps.py).
2. More than `guard_skips` skipped steps in a window of `guard_window`: the learning rate is halved.
3. More again, in a later window: back to the last good checkpoint, with half the rate and without the batch at which
   the trouble began, so that the run does not fall into the same hole.
4. More again: the run stops, with a report (postmortem.py).

Decisions fall at steps that counters alone determine, and nothing else than the ladder's state enters them. While a
trouble lasts no checkpoint is written, so the newest one is from before it. Going back is a resume from there: should
an older checkpoint be all there is, its steps are taken again, to the same weights. So a run that is killed anywhere
on the ladder ends as if it had not been.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from pipelines import collectives
from pipelines.place import Place
from pipelines.settings import Settings

CALM_WINDOWS = 8
"""Windows without a skipped step after which the rate may be halved again before the run goes back."""


@dataclass
class Skipped:
    """A step that was not taken."""

    step: int
    loss: float
    norm: float
    """The gradient's norm."""


@dataclass
class Ladder:
    """Where a run stands; part of its checkpoints."""

    factor: float = 1.0
    """What multiplies the learning rate."""
    halvings: int = 0
    rollbacks: int = 0
    calm: int = 0
    """Windows without a skipped step, one after the other."""
    began: int = -1
    """The first skipped step of the trouble that lasts; -1 where there is none."""
    good: int = 0
    """The last step at which a good checkpoint was due."""
    skipped: list[Skipped] = field(default_factory=list)
    """The skipped steps of the window so far."""
    left_out: list[int] = field(default_factory=list)
    """Steps whose batches are passed over."""
    unsettled: int = 0
    """Skipped steps since the last check, each of which halved float16's scale."""


@dataclass
class Amendment:
    """What is to be different from a step on, when the run comes to it the next time."""

    step: int
    ladder: Ladder


class RollBack(Exception):
    """The run is to go back to a step, and there take up the last of the amendments."""

    def __init__(self, amendments: list[Amendment]) -> None:
        """Takes the amendments of all times that the run went back."""
        super().__init__()
        self.amendments = amendments


def attempt(train_epoch: Callable[[], None]) -> list[Amendment]:
    """Trains; gives what is to be different when the run is to go back, and nothing when it goes on."""
    try:
        train_epoch()
    except RollBack as back:
        return back.amendments
    return []


class Guards:
    """Counts the skipped steps of one rank, alike on all, and climbs the ladder."""

    def __init__(
        self,
        config: Settings,
        network: nn.Module,
        emit: Callable[[dict[str, Any]], None],
        diverged: Callable[[Skipped], ValueError],
        place: Place,
    ) -> None:
        """Stands at the foot of the ladder; `diverged` makes the error that ends a run at its top."""
        self.config, self.network, self.emit, self.diverged = config, network, emit, diverged
        self.place = place
        self.ladder = Ladder()
        self.amendments: list[Amendment] = []
        """Those of the steps to come, after a roll back."""
        self.past: list[Amendment] = []
        self._keep()

    def leaves_out(self, step: int) -> bool:
        """Says whether a step's batch is passed over; takes up the amendment of the step, if there is one."""
        while self.amendments and self.amendments[0].step == step:
            self.past.append(self.amendments.pop(0))
            self.ladder = deepcopy(self.past[-1].ladder)
        return step in self.ladder.left_out

    def read(self, first: int, losses: list[float], norms: list[float]) -> None:
        """Takes the numbers of steps from `first` on, the same on every rank; without guards, raises Diverged."""
        new = []
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), first):
            if not math.isfinite(norm) or not (math.isfinite(loss) or step in self.ladder.left_out):
                new.append(Skipped(step, loss, norm))
        if new:
            self.ladder.skipped += new
            self.ladder.unsettled += len(new)
            if not self.config.guards:
                raise self.diverged(new[0])
            self.emit({"event": "guard", "rung": "skip", "steps": [one.step for one in new]})

    def check(self, step: int, total: int) -> int:
        """Mends buffers, and at the end of a window, or of the run, decides; `step` steps are taken.

        Returns how many were skipped since the last check. Raises RollBack, or Diverged with a report.
        """
        self._mend()
        if step % self.config.guard_window == 0 or step == total:
            self._decide(step, total)
        unsettled, self.ladder.unsettled = self.ladder.unsettled, 0
        return unsettled

    def conclude(self, step: int) -> None:
        """Decides, as `check` at a run's last step, about one that is to stop early; raises the same."""
        if step % self.config.guard_window:
            self.check(step, step)
        elif self.ladder.began >= 0:  # the rate has just been halved for steps that will not come
            self._go_back_or_stop(step, Skipped(self.ladder.began, math.nan, math.nan))

    def _decide(self, step: int, total: int) -> None:
        ladder = self.ladder
        skipped, taken = ladder.skipped, (step - 1) % self.config.guard_window + 1
        hopeless = step == total and len(skipped) + len(ladder.left_out) >= taken
        if len(skipped) <= self.config.guard_skips and not (skipped and hopeless):
            self._calm_down()
            return
        ladder.began = skipped[0].step if ladder.began < 0 else ladder.began
        if ladder.halvings < self.config.guard_halvings and step < total:
            self._halve(step)
        else:
            self._go_back_or_stop(step, skipped[-1])
        ladder.skipped = []

    def is_good(self, step: int) -> bool:
        """Says whether a checkpoint after so many steps would be a good one to come back to."""
        ladder = self.ladder
        if ladder.began >= 0 or len(ladder.skipped) > self.config.guard_skips:
            return False
        return not ladder.skipped or ladder.skipped[-1].step < step - 1

    def due(self, step: int) -> bool:
        """Notes that a checkpoint is due after so many steps; says whether it would be a good one."""
        if self.is_good(step):
            self.ladder.good = step
            return True
        return False

    def _calm_down(self) -> None:
        ladder = self.ladder
        ladder.calm = 0 if ladder.skipped else ladder.calm + 1
        if ladder.calm >= CALM_WINDOWS:
            ladder.halvings = 0
        ladder.began, ladder.skipped = -1, []

    def _halve(self, step: int) -> None:
        self.ladder.factor /= 2
        self.ladder.halvings, self.ladder.calm = self.ladder.halvings + 1, 0
        self.emit({"event": "guard", "rung": "halve", "step": step, "factor": self.ladder.factor})

    def _go_back_or_stop(self, step: int, last: Skipped) -> None:
        if self.ladder.rollbacks < self.config.guard_rollbacks:
            self._roll_back(step)
        self.emit({"event": "guard", "rung": "stop", "step": step})
        raise self.diverged(last)

    def _roll_back(self, step: int) -> None:
        ladder = self.ladder
        left_out = [*ladder.left_out, ladder.began]
        amended = Ladder(ladder.factor / 2, ladder.halvings, ladder.rollbacks + 1, good=ladder.good, left_out=left_out)
        said = {"to": ladder.good, "factor": amended.factor, "left_out": left_out}
        self.emit({"event": "guard", "rung": "roll back", "step": step, **said})
        raise RollBack([*(one for one in self.past if one.step <= ladder.good), Amendment(ladder.good, amended)])

    def _keep(self) -> None:
        self.kept = [buffer.detach().clone() for buffer in collectives.statistics(self.network)]

    def _mend(self) -> None:
        """Brings back running means that a skipped step's batch made other than finite."""
        if self.ladder.skipped:
            for buffer, kept in zip(collectives.statistics(self.network), self.kept, strict=True):
                if not buffer.isfinite().all():
                    buffer.copy_(kept)
        self._keep()

    def state(self) -> dict[str, Any]:
        """Gives what a checkpoint needs to go on; every rank calls it."""
        return {"ladder": asdict(self.ladder), "kept": collectives.gather_numbers(self.kept, self.place.world)}

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Goes on from a checkpoint's state, after so many steps; what was amended before is part of it."""
        values = dict(state["ladder"])
        skipped = [Skipped(**one) for one in values.pop("skipped")]
        self.ladder = Ladder(**values, skipped=skipped)
        self._keep()
        kept_RS = state["kept"] if "kept" in state else collectives.gather_numbers(state["buffers"], 1)  # older ones
        collectives.set_numbers(self.kept, collectives.own_numbers(kept_RS, self.place.rank, self.place.world))
        if self.amendments and self.amendments[-1].step < step:  # nothing as old was left to go back to
            self.ladder = deepcopy(self.amendments[-1].ladder)
        self.past = [one for one in self.amendments if one.step < step]
        self.amendments = [one for one in self.amendments if one.step >= step]
