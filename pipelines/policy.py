"""What a rollout is, what is counted of it, and when its candidate is over a limit; standard library only.

A candidate is over a limit only when its figures say so beyond doubt: not the figure itself is compared but the bound
that it lies above for all but one in 30,000 draws of the same size (Z). The figures are looked at after every call, so
the bound is that strict for the thousands of looks together to be wrong in about one rollout in a hundred.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Z = 4.0
"""Standard errors between a figure and the bound that counts."""
SOONER = 10
"""Errors are judged from a tenth of the least calls on, because callers feel them."""
SLACK = 3.0
"""How many times over the limit a shadow's waits must be: it waits for the processor as no caller would let it."""
LEAST_SECONDS = 1e-6

State = Literal["running", "promoted", "aborted", "rolled back", "superseded"]
STATES: tuple[State, ...] = ("running", "promoted", "aborted", "rolled back", "superseded")


@dataclass(frozen=True)
class Limits:
    """How much worse than the champion a candidate may be."""

    max_errors: float = 0.01
    """Share of calls that may fail beyond the champion's share."""
    max_slower: float = 1.5
    """Typical latency, as a multiple of the champion's: a canary's in waiting, a shadow's in processor time."""
    max_disagreement: float = 0.05
    """Share of a shadow's answers that may differ from the champion's."""
    least_calls: int = 200
    """Calls before latency and disagreement are judged; a tenth of it before errors are."""


@dataclass(frozen=True)
class Rollout:
    """A version on trial beside the champion."""

    id: str
    """Another one for each start."""
    version: int
    """The candidate."""
    champion: int
    """The version that was champion at the start."""
    mode: Literal["shadow", "canary"]
    share: float
    """Of the calls, above 0 and at most 1."""
    limits: Limits
    began: float
    """In seconds since 1970."""
    state: State = "running"
    reason: str = ""
    """Why it ended."""

    def ended(self, state: State, reason: str) -> "Rollout":
        """Gives what it is once it has ended."""
        return replace(self, state=state, reason=reason)

    def to_json(self) -> str:
        """Writes it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Rollout":
        """Reads what `to_json` wrote; raises ValueError when the text is nothing of the kind."""
        try:
            facts = json.loads(text)
            made = cls(**{**facts, "limits": Limits(**facts["limits"])})
            if not made._fits():
                raise ValueError("a value is out of range")
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            raise ValueError(f"{text[:80]!r} is no rollout: {problem}") from None
        return made

    def _fits(self) -> bool:
        """Says whether all values can be judged by; JSON may bring anything, also booleans, NaN and huge integers."""
        limits, least = self.limits, self.limits.least_calls
        counted = all(type(number) is int and number > 0 for number in (self.version, self.champion, least))
        shares = all(_within(share, 0, 1) for share in (self.share, limits.max_errors, limits.max_disagreement))
        words = all(isinstance(word, str) for word in (self.id, self.reason))
        known = self.state in STATES and self.mode in ("shadow", "canary")
        rest = _within(limits.max_slower, 1, sys.float_info.max) and _within(self.began, 0, sys.float_info.max)
        return counted and shares and words and known and rest and self.share > 0 and bool(self.id)


def _within(number: object, least: float, most: float) -> bool:
    return type(number) in (int, float) and least <= number <= most  # type: ignore[operator]


@dataclass
class Times:
    """How long calls took, of which logarithms are kept: their mean is hardly moved by a few that took very long."""

    count: int = 0
    logs: float = 0.0
    """Sum of the natural logarithms of the seconds."""
    squares: float = 0.0
    """Sum of their squares."""

    def add(self, seconds: float) -> None:
        """Counts a call."""
        log = math.log(max(seconds, LEAST_SECONDS))
        self.count += 1
        self.logs += log
        self.squares += log * log

    @property
    def typical_s(self) -> float:
        """The geometric mean of the seconds; NaN for no calls."""
        return math.exp(self.logs / self.count) if self.count else math.nan

    def doubt(self) -> float:
        """The variance of the mean of the logarithms; for two calls or more."""
        spread = max(0.0, (self.squares - self.logs * self.logs / self.count) / (self.count - 1))
        return spread / self.count

    def __add__(self, other: "Times") -> "Times":
        """Counts both together."""
        return Times(self.count + other.count, self.logs + other.logs, self.squares + other.squares)


@dataclass
class Role:
    """What came of the calls of one of the two models."""

    calls: int = 0
    errors: int = 0
    """Calls that the model failed, was too late or too busy for, or refused an item of."""
    waits: Times = field(default_factory=Times)
    """From asking the model to its answer, of calls without an error."""
    work: Times = field(default_factory=Times)
    """Processor time of the model's thread, of calls that had a batch to themselves; nothing else is in it."""

    def __add__(self, other: "Role") -> "Role":
        """Counts both together."""
        return Role(
            self.calls + other.calls,
            self.errors + other.errors,
            self.waits + other.waits,
            self.work + other.work,
        )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Role":
        """Reads what `asdict` made; raises TypeError or KeyError when it is nothing of the kind."""
        return cls(**{**facts, "waits": Times(**facts["waits"]), "work": Times(**facts["work"])})


@dataclass
class Tally:
    """What has been counted of a rollout."""

    champion: Role = field(default_factory=Role)
    """Of the calls that were copied to a shadow, or that a canary did not get; its times are of all calls."""
    candidate: Role = field(default_factory=Role)
    compared: int = 0
    """Calls whose answers were compared."""
    agreed: float = 0.0
    """Sum of their agreements, 0 to 1 each."""
    dropped: int = 0
    """Copies that were given up because too many waited."""

    @property
    def disagreement(self) -> float:
        """The share of answers that differed; NaN when none were compared."""
        return 1 - self.agreed / self.compared if self.compared else math.nan

    def __add__(self, other: "Tally") -> "Tally":
        """Counts both together."""
        return Tally(
            self.champion + other.champion,
            self.candidate + other.candidate,
            self.compared + other.compared,
            self.agreed + other.agreed,
            self.dropped + other.dropped,
        )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Tally":
        """Reads what `asdict` made; raises ValueError when it is nothing of the kind."""
        try:
            made = cls(**{**facts, "champion": Role.of(facts["champion"]), "candidate": Role.of(facts["candidate"])})
            return made + cls()  # fails where something is no number
        except (TypeError, KeyError, AttributeError) as problem:
            raise ValueError(f"this is no tally: {problem}") from None


def over(rollout: Rollout, tally: Tally) -> str:
    """Says which limit the candidate is over beyond doubt; empty as long as there is none."""
    return _errors(rollout, tally) or _slowness(rollout, tally) or _disagreement(rollout, tally)


def _errors(rollout: Rollout, tally: Tally) -> str:
    """Compares the shares of failed calls by Newcombe's interval for the difference of two of Wilson's."""
    limits, mine, theirs = rollout.limits, tally.candidate, tally.champion
    if mine.calls * SOONER < limits.least_calls or not mine.errors:
        return ""
    share, other = mine.errors / mine.calls, theirs.errors / max(1, theirs.calls)
    low = share - bounds(mine.errors, mine.calls)[0]
    high = bounds(theirs.errors, theirs.calls)[1] - other
    if share - other - math.hypot(low, high) <= limits.max_errors:
        return ""
    figures = f"{mine.errors} of {mine.calls} calls failed, against {theirs.errors} of {theirs.calls}"
    return f"errors: {figures} of version {rollout.champion}; allowed are {limits.max_errors:.1%} more"


def _slowness(rollout: Rollout, tally: Tally) -> str:
    """Compares what callers wait for; of a shadow, which gets what processor time callers leave, the work itself."""
    mine, theirs, limit = tally.candidate, tally.champion, rollout.limits.max_slower
    if rollout.mode == "canary":
        return _slower(rollout, mine.waits, theirs.waits, limit, "")
    work = _slower(rollout, mine.work, theirs.work, limit, " of processor time")
    return work or _slower(rollout, mine.waits, theirs.waits, limit * SLACK, "")


def _slower(rollout: Rollout, mine: Times, theirs: Times, limit: float, kind: str) -> str:
    """Compares geometric means, whose ratio's logarithm is normal in good approximation."""
    if min(mine.count, theirs.count) < max(2, rollout.limits.least_calls):
        return ""
    apart = mine.logs / mine.count - theirs.logs / theirs.count
    if apart - Z * math.sqrt(mine.doubt() + theirs.doubt()) <= math.log(limit):
        return ""
    figures = f"{mine.typical_s * 1e3:.3g} ms{kind} a call against {theirs.typical_s * 1e3:.3g} ms"
    return f"latency: {figures} of version {rollout.champion}; allowed is {limit:g} times as much"


def _disagreement(rollout: Rollout, tally: Tally) -> str:
    limits = rollout.limits
    if tally.compared < limits.least_calls:
        return ""
    if bounds(tally.compared - tally.agreed, tally.compared)[0] <= limits.max_disagreement:
        return ""
    figures = f"{tally.disagreement:.1%} of the answers to {tally.compared} calls differ"
    return f"disagreement: {figures} from version {rollout.champion}'s; allowed are {limits.max_disagreement:.1%}"


def bounds(count: float, calls: int) -> tuple[float, float]:
    """Gives Wilson's interval for the share of calls that something is true of.

    count: may be a sum of shares, 0 to 1 each, for which the interval is wider than it need be.
    """
    if not calls:
        return 0.0, 1.0
    share, square = count / calls, Z * Z / calls
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * max(0.0, share * (1 - share)) + square * square / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
