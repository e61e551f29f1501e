"""The ledger's book: what every call was, and what it says of all of them together."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Call:
    """One call; times are seconds of the machine's monotonic clock."""

    id: str
    start: float
    end: float | None = None
    """None for a call that has no outcome."""
    code: str = ""
    message: str = ""
    version: str = ""
    """Of the model that answered, as the trailing metadata say."""
    digest: str = ""
    labels: tuple[str, ...] = ()
    """The best of each item; a label's first word is the version of the model that knows it."""


@dataclass
class Verdict:
    """What came of calls."""

    answered: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    """How many ended with which error."""
    unanswered: list[str] = field(default_factory=list)
    """Calls without an outcome."""
    mixed: list[str] = field(default_factory=list)
    """Replies of which one part is of another model than the rest."""
    examples: list[str] = field(default_factory=list)
    """The first failed calls in full."""

    @property
    def failed_count(self) -> int:
        """Calls that ended with an error."""
        return sum(self.failed.values())


def read(books: Iterable[Path]) -> list[Call]:
    """Reads books; raises ValueError for an outcome of a call that was never begun, or that had one before."""
    begun: dict[str, Call] = {}
    for book in books:
        for line in book.read_text().splitlines():
            entry = json.loads(line)
            name = entry["id"]
            if ("start" in entry) == (name in begun) or ("end" in entry and begun[name].end is not None):
                raise ValueError(f"{book.name} does not hold together at {line[:200]}")
            if "start" in entry:
                begun[name] = Call(**entry)
            else:
                labels = tuple(entry.pop("labels", ()))
                begun[name] = Call(start=begun[name].start, labels=labels, **entry)
    return list(begun.values())


def judge(calls: Iterable[Call], digests: dict[str, str]) -> Verdict:
    """Judges calls.

    digests: the digest of each version.
    """
    verdict = Verdict()
    for call in calls:
        if call.end is None:
            verdict.unanswered.append(call.id)
        elif call.code != "OK":
            verdict.failed[call.code] = verdict.failed.get(call.code, 0) + 1
            if len(verdict.examples) < 20:
                verdict.examples.append(f"{call.id} after {call.end - call.start:.2f} s: {call.code} {call.message}")
        else:
            verdict.answered += 1
            said = {label.split()[0] for label in call.labels}
            if said != {f"v{call.version}"} or digests.get(call.version) != call.digest:
                verdict.mixed.append(f"{call.id}: version {call.version} ({call.digest[:12]}) answered {call.labels}")
    return verdict


def longest_gap_s(calls: Iterable[Call], begin: float, end: float) -> float:
    """Finds the longest time without an answer, of those that touch the time from begin to end."""
    answers = sorted(call.end for call in calls if call.end is not None and call.code == "OK")
    gaps = [after - before for before, after in itertools.pairwise(answers) if after >= begin and before <= end]
    return max(gaps, default=float("inf"))
