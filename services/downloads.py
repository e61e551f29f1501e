"""The versions on their way to this node, each on a thread, so that one that comes slowly keeps nobody from looking.

A thread cannot be stopped: one whose version is wanted no more, or does not come, is left to end by itself.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from services.models import Stored
from services.patience import Overdue

if TYPE_CHECKING:
    from pipelines.registry import Version

log = logging.getLogger(__name__)

QUICK_S = 5.0
"""Seconds that a round of looking waits for a version that has just begun to come; most are here by then."""
DOWNLOAD_S = 600.0
"""Seconds until a version that does not come is given up."""


class Underway(Exception):
    """What is raised for a version that is still on its way."""


class Download:
    """One version on its way."""

    def __init__(self, bring: "Callable[[Version], Stored]", version: "Version") -> None:
        """Starts the thread, which ends with the process at the latest."""
        self.version = version
        self.began = time.monotonic()
        self.is_wanted = True
        """Whether it was asked for in this round."""
        self._bring = bring
        self._came: Stored | Exception = Underway()
        self.thread = threading.Thread(target=self._work, name=f"download-{version.name}", daemon=True)
        self.thread.start()

    def is_of(self, version: "Version") -> bool:
        """Says whether it brings this version, from this place."""
        ours, theirs = self.version, version
        return (ours.version, ours.digest, ours.source) == (theirs.version, theirs.digest, theirs.source)

    def result(self) -> Stored:
        """Gives what has come; raises what went wrong, and Underway before its end."""
        if isinstance(self._came, Exception):
            raise self._came
        return self._came

    def _work(self) -> None:
        try:
            self._came = self._bring(self.version)
        except Exception as problem:
            self._came = problem


class Downloads:
    """At most one download of each task that is wanted; all methods are for the thread that looks."""

    def __init__(self, bring: "Callable[[Version], Stored]") -> None:
        """Takes what brings a version into the store, which is called on threads."""
        self._bring = bring
        self._running: dict[str, Download] = {}
        self._left: list[Download] = []

    @property
    def left_count(self) -> int:
        """Threads that were left and have not ended."""
        self._left = [one for one in self._left if one.thread.is_alive()]
        return len(self._left)

    def bring(self, version: "Version") -> Stored:
        """Gives a version that is here or has come, and begins to bring any other.

        The version of a task that a round asks for first is brought before others. Raises Underway while it is on its
        way, Overdue when that takes too long, and what went wrong.
        """
        task = version.name
        found = self._running.get(task)
        if found and not found.is_of(version):
            if found.is_wanted:
                raise Underway
            self._leave(task)
            found = None
        if found is None:
            found = self._running[task] = Download(self._bring, version)
            found.thread.join(QUICK_S)
            if found.thread.is_alive():
                log.warning("%s version %s is slow to come; looking goes on meanwhile", task, version.version)
        found.is_wanted = True
        if found.thread.is_alive():
            if time.monotonic() < found.began + DOWNLOAD_S:
                raise Underway
            self._leave(task)
            raise Overdue(f"no answer within {DOWNLOAD_S:.0f} s")
        del self._running[task]
        return found.result()

    @contextlib.contextmanager
    def round(self, task: str) -> Iterator[None]:
        """Has a download of a task left that is not asked for until the end of the block, unless that fails."""
        if before := self._running.get(task):
            before.is_wanted = False
        yield
        after = self._running.get(task)
        if after and not after.is_wanted:
            self._leave(task)

    def keep(self, tasks: Collection[str]) -> None:
        """Leaves the downloads of all other tasks."""
        for task in self._running.keys() - tasks:
            self._leave(task)

    def _leave(self, task: str) -> None:
        self._left.append(self._running.pop(task))
