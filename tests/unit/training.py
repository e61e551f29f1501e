"""Runs the loop for tests: in this process, and in two that meet through gloo."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from pipelines import loop, tasks
from pipelines.examples import Data, Draw, Split
from pipelines.place import Place
from pipelines.saving import USUAL, Keeping
from pipelines.stopping import never

ROOT = Path(__file__).resolve().parents[2]
REGRESSION, PARITY = (str(ROOT / "examples" / name) for name in ("linear_regression", "parity"))
PLAIN: dict[str, Any] = {
    "arch": "article",
    "optimizer": "sgd",
    "schedule": "constant",
    "lr": 0.05,
    "batch_size": 64,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "augment": False,
}
"""The classifier without anything random but the order of its examples."""
PATIENCE_SECONDS = 120


class Stopped(Exception):
    """Ends a run half-way, as the user might."""


@dataclass
class Outcome:
    """What a run said, and what it left."""

    folder: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    def named(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def losses(self) -> list[float]:
        return [loss for event in self.named("steps") for loss in event["losses"]]

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "artifact" / "model.safetensors")


def _ignore(event: dict[str, Any]) -> None:
    pass


def train(
    folder: Path,
    word: str = "classifier",
    place: Place | None = None,
    stop_at: int = 0,
    checkpoint_steps: int = 0,
    wrap: Callable[[Data], Data] | None = None,
    ask: Callable[[], str] = never,
    keeping: Keeping = USUAL,
    hear: Callable[[dict[str, Any]], None] = _ignore,
    **flags: Any,
) -> Outcome:
    """Runs the loop; raises Stopped at step `stop_at` unless that is 0.

    ask: the loop's own `stop`. hear: gets every event as it happens.
    """
    task = tasks.find(word)
    config = task.config.Config(**flags)
    folder.mkdir(parents=True, exist_ok=True)
    outcome = Outcome(folder)

    def emit(event: dict[str, Any]) -> None:
        outcome.events.append(event)
        hear(event)
        if stop_at and event["event"] == "steps" and event["first"] + len(event["losses"]) >= stop_at:
            raise Stopped

    data = wrap(task.data.load(config)) if wrap else None
    saving: dict[str, Any] = {"checkpoint_steps": checkpoint_steps, "stop": ask, "keeping": keeping}
    outcome.metrics = loop.run(task, config, folder, place or Place(), emit, data, **saving)
    return outcome


def stop(folder: Path, **settings: Any) -> None:
    """Trains until the run is stopped half-way."""
    try:
        train(folder, **settings)
    except Stopped:
        return
    raise AssertionError("the run came to its end")


class Counted:
    """A split that remembers which examples were read."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.read: list[int] = []

    @property
    def lengths(self) -> Tensor | None:
        return self.split.lengths

    def __len__(self) -> int:
        return len(self.split)

    def to(self, device: torch.device) -> "Counted":
        self.split = self.split.to(device)
        return self

    def batch(self, index_B: Tensor, draw: Draw | None) -> Any:
        self.read += index_B.tolist()
        return self.split.batch(index_B, draw)


def counted(data: Data) -> Data:
    """Wraps every split."""
    return replace(data, train=Counted(data.train), valid=Counted(data.valid), test=Counted(data.test))


def reads(data: Data) -> dict[str, list[int]]:
    """Lists which examples of each wrapped split were read, in order."""
    splits = {"train": data.train, "valid": data.valid, "test": data.test}
    return {name: split.read for name, split in splits.items() if isinstance(split, Counted)}


class Interrupted(Counted):
    """A split that raises Stopped when asked for one batch too many."""

    def __init__(self, split: Split, batches: int) -> None:
        super().__init__(split)
        self.left = batches

    def batch(self, index_B: Tensor, draw: Draw | None) -> Any:
        if not self.left:
            raise Stopped
        self.left -= 1
        return super().batch(index_B, draw)


class Pair:
    """Ranks 0 and 1 of a world of two, which do the same work whenever asked."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, str(folder / "store"), theirs), daemon=True)
            process.start()
            self._ends.append(ours)
            self._processes.append(process)

    def run(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Calls work(rank, *arguments) in both; returns what each returned. Raises what one of them raised."""
        for end in self._ends:
            end.send((work, arguments))
        answers = [
            end.recv() if end.poll(PATIENCE_SECONDS) else TimeoutError(f"rank {rank}")
            for rank, end in enumerate(self._ends)
        ]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _serve(rank: int, store: str, end: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    while True:
        work, arguments = end.recv()
        try:
            end.send(work(rank, *arguments))
        except Exception as problem:  # told to the test
            end.send(problem)


def train_ranked(rank: int, folder: Path, settings: dict[str, Any]) -> Outcome:
    """Trains as one of the pair."""
    return train(folder, place=Place(rank, 2), **settings)


def stop_ranked(rank: int, folder: Path, batches: int, settings: dict[str, Any]) -> None:
    """Trains as one of the pair until both are stopped, before batch number `batches`."""
    wrap = partial(_interrupted, batches=batches)
    stop(folder, place=Place(rank, 2), wrap=wrap, **settings)


def _interrupted(data: Data, batches: int) -> Data:
    return replace(data, train=Interrupted(data.train, batches))


def reads_ranked(rank: int, folder: Path, settings: dict[str, Any]) -> dict[str, list[int]]:
    """Trains as one of the pair; returns which examples of each split this rank read."""
    kept: list[Data] = []

    def wrap(data: Data) -> Data:
        kept.append(counted(data))
        return kept[0]

    train(folder, place=Place(rank, 2), wrap=wrap, **settings)
    return reads(kept[0])
