"""What the gate is told, and what it says; knows arrays alone. Shapes: N test examples, R resamples of them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pipelines.resampling import Floats, Ints


@dataclass(frozen=True)
class Rules:
    """How far a version must be ahead, and how far it may fall behind."""

    margin: float = 0.0
    """What the difference of the primary metric must surely exceed."""
    slice_margin: float = 0.02
    """What the metric may fall by on a slice."""
    confidence: float = 0.95


@dataclass(frozen=True)
class Answers:
    """What one model made of the test examples; [N] each."""

    score: "Floats"
    """What an example adds to the primary metric: 1 where right and 0 where wrong, or a user's NDCG."""
    guess: "Ints | None" = None
    """The label that came first; of a task with labels."""
    confidence: "Floats | None" = None
    brier: "Floats | None" = None


@dataclass(frozen=True)
class Pair:
    """A new version and the champion on the same test examples."""

    primary: str
    ours: Answers
    theirs: Answers
    target: "Ints | None" = None
    """The true labels [N]."""
    slices: "Mapping[str, tuple[list[str], Ints]]" = field(default_factory=dict)
    """By kind, the names of its slices, and which of them each example belongs to [N]."""


@dataclass(frozen=True)
class Interval:
    """A difference, new version less champion, and where it lies with the confidence asked for."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        """Writes estimate and interval with signs."""
        return f"{self.estimate:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True)
class Slice:
    """How a part of the test examples fared."""

    kind: str
    name: str
    count: int
    ours: float
    theirs: float
    difference: Interval
    state: Literal["fell", "held", "open"]
    """open: too few examples to rule out a fall of more than the margin."""

    def __str__(self) -> str:
        """Names the slice and its fall."""
        return f"{self.kind} {self.name!r} ({self.count} examples): {self.difference}"


@dataclass(frozen=True)
class Calibration:
    """How much confidence was worth; less is better."""

    name: str
    ours: float
    theirs: float
    difference: Interval
    worse: bool


@dataclass(frozen=True)
class Verdict:
    """Whether the new version may become champion, and why."""

    promoted: bool
    reason: str
    notes: tuple[str, ...] = ()
    """What a reader should know of how it was judged."""
    primary: str = ""
    ours: float = math.nan
    theirs: float = math.nan
    count: int = 0
    """Test examples that both were judged on."""
    difference: Interval | None = None
    slices: tuple[Slice, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    gained: int = 0
    """Examples on which the new version is better."""
    lost: int = 0
    draws: "Floats | None" = None
    """The difference in each resample [R]."""

    def told(self) -> dict[str, Any]:
        """Gives the verdict as JSON can hold it: None in the place of a number that is not finite."""
        return {name: _plain(value) for name, value in asdict(self).items() if name != "draws"}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [*map(_plain, value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def by_metric(primary: str, ours: float, theirs: float, margin: float, old: str, why: str = "") -> Verdict:
    """Judges by test metrics alone, whatever test examples they are of; `why` says what the better way lacks."""
    better = ours - theirs > margin
    verb, rank = ("champion", "is better than") if better else ("not champion", "is no better than")
    ahead = f" by more than {margin:g}" if margin else ""
    reason = f"{verb}: {primary} {ours:.4f} {rank} {theirs:.4f} of {old}{ahead}, by the metric alone"
    return Verdict(better, f"{reason}: {why}" if why else reason, (), primary, ours, theirs)
