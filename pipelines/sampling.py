"""Samples this machine's load while a run lasts, into a journal beside the run's own."""

import threading
import time
from pathlib import Path

from pipelines import tracking
from pipelines.journal import LOAD, NAME, Journal, Reader

POLL_SECONDS = 2.0
APART_SECONDS, FIRST_SECONDS = (2.0, 10.0), 120.0
"""Between samples: at first, and later."""
LIVE_SECONDS = 600.0
"""A journal that grew in so short a time is of a run of now, whose machine's load this one's is."""


class Sampler(threading.Thread):
    """Writes samples that are replayed as all else is: an outage of MLflow makes no gap in them."""

    def __init__(self, run_dir: Path) -> None:
        """Samples nothing yet."""
        super().__init__(daemon=True)
        self._run_dir = run_dir
        self._is_over = threading.Event()

    def start_if_live(self) -> None:
        """Starts, unless the run was over long ago."""
        journal = self._run_dir / NAME
        if not journal.exists() or time.time() - journal.stat().st_mtime < LIVE_SECONDS:
            self.start()

    def end(self) -> None:
        """Takes the last sample; that is the only one of a short run."""
        self._is_over.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        """Samples from the run's start on."""
        while not self._has_begun():
            if self._is_over.wait(POLL_SECONDS) and not self._has_begun():
                return
        load, journal = tracking.Load(), Journal(self._run_dir, LOAD)
        number = sum(1 for _ in Reader(self._run_dir, LOAD).new_events())
        began, is_last = time.monotonic(), False
        while not is_last:
            is_last = self._is_over.wait(APART_SECONDS[time.monotonic() - began > FIRST_SECONDS])
            journal.append({"event": "load", "step": number, "metrics": load.sample()})
            number += 1
        journal.close()

    def _has_begun(self) -> bool:
        return any(event["event"] == "start" for event in Reader(self._run_dir).new_events())
