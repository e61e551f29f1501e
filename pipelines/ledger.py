"""Which examples each rank really learned from, written down by every rank where EAGERLY_LEDGER names a folder.

A restart goes back to a checkpoint, so steps are taken that no weights remember. `surviving` finds the steps that the
final weights come from, and `tally` counts how often each example is in them. Nothing is written, and nothing is
wrapped, unless the variable is set.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, device

from pipelines.examples import Data, Draw, Split
from pipelines.journal import Reader
from pipelines.place import Place
from pipelines.runs import Run

FOLDER = "EAGERLY_LEDGER"


class Read:
    """A split that writes down the examples it is asked for in training, a line a micro-batch."""

    def __init__(self, split: Split, path: Path) -> None:
        """Appends to the file at `path`; each line reaches it before the batch is given."""
        self._split, self._path = split, path

    @property
    def lengths(self) -> Tensor | None:
        """Gives the lengths of the split itself."""
        return self._split.lengths

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self._split)

    def __getattr__(self, name: str) -> Any:
        """Gives what else the split has, as a model may ask for when it is made."""
        return getattr(self.__dict__["_split"], name)

    def to(self, device: device) -> "Read":
        """Moves the split to a device."""
        return Read(self._split.to(device), self._path)

    def batch(self, index_B: Tensor, draw: Draw | None) -> Any:
        """Takes a batch, and writes down what it is of."""
        if draw is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([draw.epoch, index_B.tolist()]) + "\n")
        return self._split.batch(index_B, draw)


def kept(run: Run, place: Place) -> Data | None:
    """Loads the run's data so that what is read of it is written down; None, for the loop to load, if not asked."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    attempt = sum(event["event"] == "start" for event in Reader(run.folder).new_events())
    path = Path(folder) / run.folder.name / f"{attempt:04d}-{place.rank:04d}-of-{place.world:04d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return wrap(run.task.data.load(run.config), path)


def wrap(data: Data, path: Path) -> Data:
    """Writes down what is read of the training split."""
    return replace(data, train=Read(data.train, path))


@dataclass(frozen=True)
class Taken:
    """A step as it was taken, whether or not the final weights know of it."""

    attempt: int
    step: int
    epoch: int
    examples: tuple[int, ...]
    """Of all ranks."""


def taken(folder: Path, run_dir: Path) -> Iterator[Taken]:
    """Puts the ranks' lines together, step by step and attempt by attempt; a step that not all ranks took is left out.

    Needs one micro-batch a step, and no fewer examples in a batch than ranks.
    """
    starts = [event["step"] for event in Reader(run_dir).new_events() if event["event"] == "start"]
    for attempt, first in enumerate(starts):
        paths = sorted((folder / run_dir.name).glob(f"{attempt:04d}-*.jsonl"))
        ranks = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
        for number, lines in enumerate(zip(*ranks, strict=False)):
            epochs = {epoch for epoch, _ in lines}
            assert len(epochs) == 1, f"ranks are in epochs {epochs} at step {first + number}"
            examples = tuple(example for _, own in lines for example in own)
            yield Taken(attempt, first + number, epochs.pop(), examples)


def surviving(steps: list[Taken], run_dir: Path) -> list[Taken]:
    """Keeps of each attempt the steps up to where the next one went on from its checkpoint."""
    starts = [event["step"] for event in Reader(run_dir).new_events() if event["event"] == "start"]
    bounds = [min(starts[attempt + 1 :], default=float("inf")) for attempt in range(len(starts))]
    return [step for step in steps if step.step < bounds[step.attempt]]


def tally(steps: list[Taken]) -> dict[int, Counter[int]]:
    """Counts for each epoch how often each example was learned from."""
    counts: dict[int, Counter[int]] = {}
    for step in steps:
        counts.setdefault(step.epoch, Counter()).update(step.examples)
    return counts
