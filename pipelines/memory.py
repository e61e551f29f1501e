"""Out of memory: told from other errors, and met with smaller micro-batches, while the global batch stays the same.

A rank cuts its own micro-batches into pieces and weighs them by share, so it computes the same mean and the same
gradient, up to rounding. Dropout draws anew for each piece and batch norm sees the pieces, so with these the
trajectory is another, as good one. The pieces are kept for all later steps. Evaluation cuts its batches likewise.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipelines import collectives, sealed
from pipelines.place import Place

if TYPE_CHECKING:
    from pipelines.steps import Stepper

NAME = "memory.json"
STEPS, EVALUATION = "pieces", "evaluation"
"""Its two numbers: into how many pieces training cuts its micro-batches, and evaluation its batches."""
PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")
"""How CUDA, cuDNN, cuBLAS, PyTorch's allocators and C++ complain."""


class Exhausted(RuntimeError):
    """Memory ended while ranks computed together: this rank cannot go back alone, and the run starts again."""

    def __init__(self, pieces: int, kind: str = STEPS) -> None:
        """Takes the pieces that batches are to be cut into after the restart, of training or of evaluation."""
        super().__init__(pieces, kind)
        self.pieces, self.kind = pieces, kind

    def __str__(self) -> str:
        """Says what happens next."""
        when, what = "averaged their gradients", "its micro-batches"
        if self.kind == EVALUATION:
            when, what = "evaluated with the weights in shares", "the batches of its evaluation"
        return (
            f"out of memory while ranks {when}, from which one rank alone cannot go back; "
            f"the run, when resumed, cuts {what} into {self.pieces} pieces"
        )


def is_short(problem: Exception) -> bool:
    """Says whether an error means that memory did not suffice."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return any(phrase in str(problem) for phrase in PHRASES)


def more_pieces(pieces: int, examples: int) -> int:
    """Doubles the pieces of a batch of so many examples, and frees what is cached.

    Raises ValueError when each piece was a single example.
    """
    if pieces >= examples:
        raise ValueError(
            "out of memory with a single example at a time; use a smaller network, shorter examples, "
            "or a machine with more memory"
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return pieces * 2


@contextlib.contextmanager
def noted(run_dir: Path) -> Iterator[None]:
    """Leaves the number of pieces for the run's next start, if that is what ended it."""
    try:
        yield
    except Exhausted as problem:
        sealed.put(run_dir / NAME, json.dumps({**_read(run_dir), problem.kind: problem.pieces}))
        raise


def agree(stepper: "Stepper", place: Place, emit: Callable[[dict[str, Any]], None], step: int) -> int:
    """Cuts micro-batches as the rank with the least memory must, and says so; returns into how many pieces."""
    pieces = torch.tensor(stepper.pieces, device=stepper.device)
    stepper.pieces = int(collectives.most_over_ranks(pieces, place.world))
    emit({"event": "memory", "step": step, "pieces": stepper.pieces})
    return stepper.pieces


def recorded(run_dir: Path, kind: str, place: Place) -> int:
    """Reads how many pieces an earlier start of the run was found to need, the most that any rank read."""
    pieces = torch.tensor(_read(run_dir).get(kind, 1), device=torch.device(place.device))
    return int(collectives.most_over_ranks(pieces, place.world))


def _read(run_dir: Path) -> dict[str, int]:
    path = run_dir / NAME
    return json.loads(path.read_text()) if path.exists() else {}
