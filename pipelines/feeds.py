"""Gives a run's events to a store beside MLflow, on a thread of its own, so that none waits for another."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipelines.journal import Event, Reader

POLL_SECONDS = 2.0
LONGEST_SECONDS = 60.0


class Store(Protocol):
    """Takes events from the journal's first on."""

    def take(self, events: list[Event]) -> None:
        """Stores what the next events say."""
        ...

    def close(self, failed: bool) -> None:
        """Ends the run there."""
        ...


class Feed(threading.Thread):
    """Opens a store once the run has begun and feeds it; begins again from the first event when it fails."""

    def __init__(
        self, name: str, open_store: Callable[[], Store], run_dir: Path, notice: Callable[[str], None]
    ) -> None:
        """Takes a function that opens the store, and one that says a sentence to the user."""
        super().__init__(name=name, daemon=True)
        self._open, self._run_dir, self._notice = open_store, run_dir, notice
        self._over = threading.Event()
        self._failed = False

    def end(self, failed: bool) -> None:
        """Has the thread store what is left, then close the store."""
        self._failed = failed
        self._over.set()

    def run(self) -> None:
        """Feeds until the end; of what goes wrong the first sentence is said."""
        wait, has_complained = POLL_SECONDS, False
        store: Store | None = None
        reader = Reader(self._run_dir)
        while True:
            last = self._over.is_set()
            try:
                events = list(reader.new_events())
                if store is None and any(event["event"] == "start" for event in events):
                    store = self._open()
                elif store is None:
                    reader = Reader(self._run_dir)
                if store is not None:
                    store.take(events)
                    if last:
                        store.close(self._failed)
                wait = POLL_SECONDS
            except Exception as problem:  # another store's trouble must not become the run's
                store, reader, wait = None, Reader(self._run_dir), min(2 * wait, LONGEST_SECONDS)
                if not has_complained or last:
                    self._notice(f"{self.name} lacks the run: {type(problem).__name__}: {problem}")
                    has_complained = True
            if last:
                return
            self._over.wait(wait)
