"""A job's log while it is written: every line once, until the job has ended, also where its dashboard is away a while.

Ray offers three ways. Its websocket and its log stream begin with the whole log each time, the stream never ends by
itself, and asking for an end of the log reads so many lines: that is what is asked for here, again and again.
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


class _Reader:
    """Looks at one job's log, and bears with outages."""

    def __init__(self, there: Cluster, job: Job, warn: Callable[[str], None]) -> None:
        self.count = 0
        self.ended = False
        self._there = there
        self._job = job
        self._warn = warn
        self._tail = Tail(lambda count: there.log(self._job, count))
        self._away_since: float | None = None

    def look(self, follow: bool) -> Iterator[list[str]]:
        """Gives what is new; notes when there will be no more."""
        try:
            ended = self._stand() in ENDED
            yield from self._news(ended or not follow)
            self.ended = ended or not follow
        except NoAnswer as problem:
            self._away(problem)
            return
        self._back()

    def _stand(self) -> str:
        now = self._there.again(self._job)
        if now is None:
            name, where = self._job.name, self._there.address
            raise ValueError(
                f"the cluster at {where} came back without the job {name!r}; `eagerly jobs logs {name}` shows what "
                "MLflow keeps of it"
            )
        self._job = now
        return now.state

    def _news(self, last: bool) -> Iterator[list[str]]:
        try:
            for some in self._tail.more(last):
                self._back()
                self.count += len(some)
                if some:
                    yield some
        except LogGone as problem:
            if last and self.count == 0:
                raise
            if last:
                self._warn(f"{problem}; `eagerly jobs logs {self._job.name}` shows what MLflow keeps of it")

    def _away(self, problem: NoAnswer) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            self._warn(f"{problem}; it is asked again for {OUTAGE_SECONDS:.0f} s")
        elif now - self._away_since > OUTAGE_SECONDS:
            raise NoAnswer(
                f"the cluster at {self._there.address} has not answered for {OUTAGE_SECONDS:.0f} s; `eagerly jobs logs "
                f"{self._job.name}` shows what MLflow keeps"
            ) from problem

    def _back(self) -> None:
        if self._away_since is not None:
            self._away_since = None
            self._warn("it answers again, and the log goes on")
