"""A job while it runs, until it has ended, also where its dashboard is away a while; and every line of its log once.

Ray offers three ways to a log. Its websocket and its log stream begin with the whole log each time, the stream never
ends by itself, and asking for an end of the log reads so many lines: that is what is asked for here, again and again.
"""

import time
from collections.abc import Callable, Iterator

from pipelines.dashboard import LogGone, NoAnswer
from pipelines.job_log import Tail
from pipelines.jobs import ENDED, Cluster, Job

POLL_SECONDS, SELDOM_SECONDS = 0.5, 2.0
"""Pause between two looks, after news and when there have been none for a while."""
OUTAGE_SECONDS = 120.0


def lines(there: Cluster, job: Job, follow: bool, warn: Callable[[str], None]) -> Iterator[list[str]]:
    """Gives the lines for people of what a job has written, some at a time; with `follow` until the job has ended.

    While the dashboard is away, `warn` is told so, for OUTAGE_SECONDS at most. Raises NoAnswer then, LogGone when the
    machine that had the log is gone, and ValueError when another cluster answers.
    """
    reader = _Reader(there, job, warn)
    pause = POLL_SECONDS
    while not reader.ended:
        before = reader.count
        yield from reader.look(follow)
        if not reader.ended:
            pause = POLL_SECONDS if reader.count > before else min(1.5 * pause, SELDOM_SECONDS)
            time.sleep(pause)


def ended(there: Cluster, job: Job, seconds: float, warn: Callable[[str], None]) -> str:
    """Waits until a job has ended, or `seconds` are over; returns Ray's state, as of the last answer.

    While the dashboard is away, `warn` is told so, for OUTAGE_SECONDS at most. Raises NoAnswer then, and ValueError
    when another cluster answers.
    """
    patience, deadline = _Patience(there, job, warn, "the wait"), time.monotonic() + seconds
    while job.state not in ENDED and time.monotonic() < deadline:
        time.sleep(min(POLL_SECONDS, seconds))
        try:
            job = _again(there, job)
        except NoAnswer as problem:
            patience.away(problem)
        else:
            patience.back()
    return job.state


def _again(there: Cluster, job: Job) -> Job:
    """Asks where a job stands now. Raises NoAnswer, and ValueError when another cluster answers."""
    now = there.again(job)
    if now is None:
        raise ValueError(
            f"the cluster at {there.address} came back without the job {job.name!r}; `eagerly jobs logs {job.name}` "
            "shows what MLflow keeps of it"
        )
    return now


class _Patience:
    """Bears with outages of a dashboard, each for OUTAGE_SECONDS."""

    def __init__(self, there: Cluster, job: Job, warn: Callable[[str], None], what: str) -> None:
        """Takes who is told, and in words what it is that goes on after an outage."""
        self._there, self._job, self._warn, self._what = there, job, warn, what
        self._away_since: float | None = None

    def away(self, problem: NoAnswer) -> None:
        """Notes that it did not answer. Raises NoAnswer when that has been so for too long."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            self._warn(f"{problem}; it is asked again for {OUTAGE_SECONDS:.0f} s")
        elif now - self._away_since > OUTAGE_SECONDS:
            raise NoAnswer(
                f"the cluster at {self._there.address} has not answered for {OUTAGE_SECONDS:.0f} s; `eagerly jobs logs "
                f"{self._job.name}` shows what MLflow keeps"
            ) from problem

    def back(self) -> None:
        """Notes that it answered."""
        if self._away_since is not None:
            self._away_since = None
            self._warn(f"it answers again, and {self._what} goes on")


class _Reader:
    """Looks at one job's log, and bears with outages."""

    def __init__(self, there: Cluster, job: Job, warn: Callable[[str], None]) -> None:
        self.count = 0
        self.ended = False
        self._there = there
        self._job = job
        self._warn = warn
        self._tail = Tail(lambda count: there.log(self._job, count))
        self._patience = _Patience(there, job, warn, "the log")

    def look(self, follow: bool) -> Iterator[list[str]]:
        """Gives what is new; notes when there will be no more."""
        try:
            self._job = _again(self._there, self._job)
            ended = self._job.state in ENDED
            yield from self._news(ended or not follow)
            self.ended = ended or not follow
        except NoAnswer as problem:
            self._patience.away(problem)
            return
        self._patience.back()

    def _news(self, last: bool) -> Iterator[list[str]]:
        try:
            for some in self._tail.more(last):
                self._patience.back()
                self.count += len(some)
                if some:
                    yield some
        except LogGone as problem:
            if last and self.count == 0:
                raise
            if last:
                self._warn(f"{problem}; `eagerly jobs logs {self._job.name}` shows what MLflow keeps of it")
