"""The watcher's part in rollouts: it brings candidates to this node, sums, reports, and ends what is over a limit.

Every node sums its own replicas' figures, judges them and their sum with the other nodes', and the first to find a
limit broken ends the rollout for all. What has ended here has ended, whether the registry could be told or not: that
is tried again until it was.
"""

import hashlib
import logging
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines import policy, rollout
from pipelines.policy import Rollout, State, Tally
from pipelines.registry import Aim
from pipelines.rollout import Report
from services import seats
from services.downloads import Underway
from services.models import Stored
from services.patience import pause_s
from services.seats import Told
from services.store import Store

log = logging.getLogger(__name__)

REPORT_S = 2.0
"""Least seconds between two writings of a node's figures into the registry."""
LONGEST_PAUSE_S = 60.0

Bring = Callable[[str, int], Stored]
"""Brings a version into the store: (task, version).

Raises Underway while it is on its way, and ValueError when it is not what the registry says.
"""
Sentence = Callable[[Exception], str]


@dataclass
class Progress:
    """What the conductor remembers of a rollout between two rounds."""

    id: str
    failures_count: int = 0
    """Tries to bring the candidate that failed."""
    retry_at: float = 0.0
    """On the clock of time.monotonic(), as is `reported_at`."""
    problem: str = ""
    reported: Report = field(default_factory=lambda: Report(""))
    reported_at: float = float("-inf")


class Conductor:
    """Conducts the rollouts of this node's tasks."""

    def __init__(self, store: Store, bring: Bring, sentence: Sentence) -> None:
        """Takes how to bring a version and how to tell an exception in one line."""
        self._store = store
        self._bring = bring
        self._sentence = sentence
        self._progress: dict[str, Progress] = {}
        self._unwritten: set[str] = set()
        self._node = node(store)
        self.ended: dict[str, list[str]] = {}
        """Of the last rollout of each task that ended while this node had it: its id, and how it ended."""

    def on_trial(self, task: str) -> list[Stored]:
        """Finds the candidate that must stay on disk."""
        told = seats.told(self._store, task)
        return [told.candidate] if told and told.candidate and told.rollout.state == "running" else []

    def look(self, task: str, aim: Aim) -> None:
        """Takes a task's rollout one step further, after the champion that `aim` names has been seen to."""
        found, told = rollout.running(aim), seats.told(self._store, task)
        if found is None:
            if told:
                last = rollout.latest(aim)
                if last and last.id == told.rollout.id:
                    self.ended[task] = [last.id, last.state]
                seats.tell(self._store, task, None)
                self._store.tidy(task)
            return
        if told and told.rollout.id == found.id and told.rollout.state != "running":
            self._write(task, found, rollout.end, task, found, told.rollout.state, told.rollout.reason)
        elif aim.champion != found.champion:
            moved = f"champion was moved from version {found.champion} to {aim.champion}"
            self._end(task, found, "promoted" if aim.champion == found.version else "superseded", moved)
        else:
            self._conduct(task, found, told, aim)

    def _conduct(self, task: str, found: Rollout, told: Told | None, aim: Aim) -> None:
        """Brings the candidate where it is not here yet, sums, reports and judges."""
        progress = self._progress.get(task)
        if progress is None or progress.id != found.id:
            progress = self._progress[task] = Progress(found.id)
        if told is None or told.rollout.id != found.id or not self._is_here(told):
            self._fetch(task, found, progress)
        counted = seats.counts(self._store, task, found)
        mine = Report(found.id, len(counted), sum((one.tally for one in counted), Tally()), progress.problem)
        if stopped := next((one.stopped for one in counted if one.stopped), ""):
            self._report(task, found, mine, aim, now=True)
            self._end(task, found, "rolled back", stopped)
            return
        others = [one.tally for name, one in rollout.reports(aim.tags, found).items() if name != self._node]
        reason = policy.over(found, mine.tally) or policy.over(found, sum(others, mine.tally))
        self._report(task, found, mine, aim, now=bool(reason))
        if reason:
            self._end(task, found, "rolled back", reason)

    def _fetch(self, task: str, found: Rollout, progress: Progress) -> None:
        """Brings the candidate and tells the replicas of it; one that is refused ends the rollout."""
        if time.monotonic() < progress.retry_at:
            return
        try:
            candidate = self._bring(task, found.version)
        except Underway:
            progress.problem = f"version {found.version} is on its way"
        except ValueError as problem:
            self._end(task, found, "rolled back", f"version {found.version} is refused: {self._sentence(problem)}")
        except Exception as problem:
            progress.failures_count += 1
            progress.retry_at = time.monotonic() + pause_s(1.0, progress.failures_count, LONGEST_PAUSE_S)
            progress.problem = f"version {found.version} cannot be fetched: {self._sentence(problem)}"
            log.error("%s %s", task, progress.problem)  # noqa: TRY400 - no traceback
        else:
            progress.problem = ""
            seats.tell(self._store, task, Told(found, candidate))
            self._store.tidy(task, candidate)
            log.warning("%s version %s is here, to be tried as a %s", task, found.version, found.mode)

    def _is_here(self, told: Told) -> bool:
        candidate = told.candidate
        return (
            candidate is not None and self._store.place(candidate.service, candidate.version, candidate.digest).is_dir()
        )

    def _report(self, task: str, found: Rollout, mine: Report, aim: Aim, now: bool) -> None:
        """Writes the node's figures into the registry, where they are news and it is time."""
        progress = self._progress[task]
        if mine != progress.reported and (now or time.monotonic() - progress.reported_at >= REPORT_S):
            self._write(task, found, rollout.report, task, self._node, mine, aim)
            progress.reported, progress.reported_at = mine, time.monotonic()

    def _end(self, task: str, found: Rollout, state: State, reason: str) -> None:
        """Ends a rollout here first, then in the registry."""
        self.ended[task] = [found.id, state]
        seats.tell(self._store, task, Told(found.ended(state, reason), None))
        log.warning("the rollout of %s version %s is %s: %s", task, found.version, state, reason)
        self._write(task, found, rollout.end, task, found, state, reason)

    def _write(self, task: str, found: Rollout, write: Callable[..., object], *arguments: object) -> None:
        """Writes into the registry; one that takes nothing, as a read-only one, leaves it to this node."""
        try:
            write(*arguments)
        except Exception as problem:
            if found.id not in self._unwritten:
                told = self._sentence(problem)
                log.error("the registry takes no tags on %s: %s", task, told)  # noqa: TRY400 - no traceback
            self._unwritten.add(found.id)


def node(store: Store) -> str:
    """Names this node and store in a registry's tags: the host, and a hash of where the store lies."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:63] or "node"
    return f"{host}-{hashlib.sha256(str(store.folder).encode()).hexdigest()[:6]}"
