"""What a network is worth: statistics of a split, each rank over its own share, and the one reading of the test split.

Shapes: B examples of a batch, C labels.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pipelines import batches, calibration, collectives, memory, results, sharding
from pipelines.examples import Split
from pipelines.place import Place

Measure = Callable[[nn.Module, Any], dict[str, Tensor]]
Columns = dict[str, Tensor]
"""By name, a number for each example of a split; float64 [N]."""
LEAST_BATCH = 256
T = TypeVar("T")


class Evaluator:
    """Measures a network by its task's own statistics; every rank calls it alike."""

    def __init__(
        self,
        train: ModuleType,
        network: nn.Module,
        place: Place,
        autocast: Callable[[], AbstractContextManager[Any]],
        batch_size: int,
        pieces: int,
        emit: Callable[[dict[str, Any]], None],
    ) -> None:
        """Takes the task's `train` module, and the batch size of training over all ranks.

        pieces: how many a batch is cut into for want of memory, as far as known. emit: is told when it is more.
        """
        self.train, self.network, self.place, self.autocast = train, network, place, autocast
        self.device = torch.device(place.device)
        self.most, self.pieces, self.emit = max(LEAST_BATCH, batch_size // place.world), pieces, emit

    @property
    def size(self) -> int:
        """How many examples are computed at a time."""
        return -(-self.most // self.pieces)

    @torch.no_grad()
    def evaluate(self, split: Split, measure: Measure | None = None) -> dict[str, Tensor]:
        """Sums the statistics of a split over all ranks; the task's own unless others are given."""
        measured = measure or self.train.measure
        own, sums = self.share(split), dict[str, Tensor]()
        for part in self.over(split, own or [torch.zeros(1, dtype=torch.int64)], measured):
            sums = {key: sums[key] + value for key, value in part.items()} if sums else part
        if not own:  # fewer examples than ranks: this rank says nothing, in the same shapes
            sums = {key: torch.zeros_like(value) for key, value in sums.items()}
        return collectives.sum_statistics(sums, self.place.world)

    def over(self, split: Split, own: list[Tensor], measured: Callable[[nn.Module, Any], T]) -> Iterator[T]:
        """Measures batches of a split, in their order and in smaller ones from where memory does not suffice.

        All ranks call it together, and take as small batches the next time. Raises memory.Exhausted when the network
        is sharded, and ValueError when not even a single example fits.
        """
        known, waiting = self.pieces, own[::-1]
        while waiting:
            index_B = waiting.pop()
            if len(index_B) > self.size:
                waiting += reversed(index_B.split(self.size))
            elif (found := self._attempt(split, index_B, measured)) is not None:
                yield found
            else:
                self.pieces = self._cut(len(index_B))
                waiting.append(index_B)
        self.keep_up(split, len(own), measured)
        pieces = torch.tensor(self.pieces, device=self.device)
        self.pieces = int(collectives.most_over_ranks(pieces, self.place.world))
        if self.pieces > known:
            self.emit({"event": "memory", memory.EVALUATION: self.pieces})

    def _attempt(self, split: Split, index_B: Tensor, measured: Callable[[nn.Module, Any], T]) -> T | None:
        """Measures a batch; None when memory did not suffice, by now freed."""
        try:
            with self.autocast():
                return measured(self.network, split.batch(index_B.to(self.device), None))
        except (RuntimeError, MemoryError) as problem:
            if not memory.is_short(problem):
                raise
            if sharding.is_sharded(self.network):  # other ranks wait in the middle of this batch
                raise memory.Exhausted(self._cut(len(index_B)), memory.EVALUATION) from problem
        return None

    def _cut(self, examples: int) -> int:
        """Says into how many pieces batches are to be cut, to have fewer examples than one that did not fit."""
        pieces = memory.more_pieces(self.pieces, self.most)
        while -(-self.most // pieces) >= examples:
            pieces = memory.more_pieces(pieces, self.most)
        return pieces

    def share(self, split: Split) -> list[Tensor]:
        """Lists this rank's part of a split in batches, with the network ready for them; may be empty."""
        self.network.eval()
        own = batches.evaluation(len(split), self.size, split.lengths, self.place.rank, self.place.world)
        return own if len(own[0]) else []

    def keep_up(self, split: Split, taken: int, measured: Callable[[nn.Module, Any], Any]) -> None:
        """Calls a sharded network as often as rank 0 does, which has the most batches: all ranks compute together."""
        if not sharding.is_sharded(self.network):
            return
        most = max(1, -(-len(range(0, len(split), self.place.world)) // self.size))
        for _ in range(most - taken):
            with self.autocast():
                measured(self.network, split.batch(torch.zeros(1, dtype=torch.int64, device=self.device), None))

    @torch.no_grad()
    def calibrate(self, split: Split) -> float:
        """Finds the temperature that makes confidence honest on a split of which the task gives logits."""
        found = self.over(split, self.share(split), self.train.scored)
        parts = [(logits_BC.float(), target_B) for logits_BC, target_B in found]
        return calibration.fit(parts, self.place.world, self.device)

    def test(self, model: Any, valid: Split, test: Split) -> tuple[dict[str, Tensor], dict[str, float], Columns]:
        """Reads the test split; returns its statistics and metrics, calibrated first where the task has logits.

        Beside them it gives what the model made of each example, by name, where the task lets that be known.
        """
        parts: list[dict[str, Tensor]] = []
        if not hasattr(self.train, "scored"):
            sums = self.evaluate(test, self._examined(parts))
            metrics = {name: float(value) for name, value in self.train.metrics(sums).items()}
            return sums, metrics, self._gather(parts, test)
        temperature = self.calibrate(valid)
        model.calibrate(temperature)

        def see(logits_BC: Tensor, label_B: Tensor) -> None:
            parts.append(results.of_logits(logits_BC, label_B))

        sums = self.evaluate(test, calibration.measure(self.train, temperature, see))
        metrics = {name: float(value) for name, value in self.train.metrics(sums).items()}
        metrics |= {"ece_uncalibrated": calibration.error(sums["uncalibrated"]), "temperature": temperature}
        return sums, metrics, self._gather(parts, test)

    def _examined(self, parts: list[dict[str, Tensor]]) -> Measure | None:
        """Makes the `measure` of a task that gives each example's own numbers beside their sums."""
        if not hasattr(self.train, "examined"):
            return None

        def measured(network: nn.Module, batch: Any) -> dict[str, Tensor]:
            sums, own = self.train.examined(network, batch)
            parts.append(own)
            return sums

        return measured

    def _gather(self, parts: list[dict[str, Tensor]], split: Split) -> Columns:
        return results.gather(parts, self.share(split), len(split), self.place.world) if parts else {}
