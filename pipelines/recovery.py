"""A run whose machine is gone, brought from its storage before it goes on."""

import time
from collections.abc import Callable
from pathlib import Path

from pipelines import storage

WAIT_SECONDS, PAUSE_SECONDS = 120.0, 1.0
"""Longest wait for a storage that is away, and after what pause it is asked again."""


def bring(address: str, run_dir: Path, say: Callable[[str], None], is_stopped: Callable[[], bool]) -> str:
    """Brings a run of the name of `run_dir` from a storage to there.

    A run that is there already catches up, if the storage answers, and else goes on as it is.
    Returns why there is none to go on with, and nothing where there is one.
    Raises ValueError when the storage stays away, or `is_stopped` says so meanwhile: the run may be in it.
    """
    place, until, has_said = f"{address.rstrip('/')}/{run_dir.name}", time.monotonic() + WAIT_SECONDS, False
    while True:
        try:
            storage.fetch_run(place, run_dir.parent, say)
            return ""
        except ValueError as problem:
            if (run_dir / storage.ABOUT).exists():
                say(f"goes on with the run in {str(run_dir)!r}: {problem}")
                return ""
            if not isinstance(problem.__cause__, OSError):  # it answered
                return str(problem)
            if is_stopped() or time.monotonic() > until:
                way = "submit the job with --again once the storage answers, or under another --name"
                raise ValueError(f"{problem}; the run may be there, so that none is begun anew; {way}") from problem
            if not has_said:
                say(f"waits for the storage, {WAIT_SECONDS:.0f} s at most: {problem}")
            has_said = True
        time.sleep(PAUSE_SECONDS)
