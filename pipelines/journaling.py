"""Opens the journal of a run that is trained, and closes it however the training ends."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from pipelines.journal import Journal

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a file that takes no more."""


@contextlib.contextmanager
def opened(run_dir: Path) -> Iterator[Journal]:
    """Gives the journal of a run, or of a search, while it goes on.

    Raises ValueError when the disk is full at the end, unless something else ended it.
    """
    journal = Journal(run_dir)
    try:
        yield journal
    except BaseException:
        with contextlib.suppress(OSError):  # what ended it is what is to be said
            journal.close()
        raise
    try:
        journal.close()
    except OSError as problem:
        raise ValueError(full(run_dir, problem)) from problem


@contextlib.contextmanager
def noted(journal: Journal, rank: int) -> Iterator[None]:
    """Notes in a run's journal why the run is refused, if it is."""
    try:
        yield
    except ValueError as problem:
        journal.append({"event": "error", "rank": rank, "sentence": str(problem)})
        raise


def full(run_dir: Path, problem: OSError) -> str:
    """Says that a run's folder takes no more, and how the run goes on."""
    return f"{str(run_dir)!r} cannot be written ({problem}); make room, then `--resume {run_dir}` goes on"
