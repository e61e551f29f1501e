"""Forward and backward passes that leave no trace: what is measured before the first step, on all ranks alike.

Shapes: B examples of a micro-batch.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipelines import batches, collectives
from pipelines.examples import Draw, Split, step_seed
from pipelines.place import Place
from pipelines.settings import Settings

MARGIN = 1.05
"""How many times faster a choice must be to be taken."""
ROUNDS, BUDGET_S = 15, 6.0
LEAST_ROUNDS = 3
Loss = Callable[[nn.Module, Any], Tensor]


class Workload:
    """One rank's passes over the first examples of the first epoch, as training makes them."""

    def __init__(
        self,
        loss: Loss,
        split: Split,
        config: Settings,
        place: Place,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """Takes the training split, which is on the place's device."""
        self.loss, self.split, self.config, self.place, self.autocast = loss, split, config, place, autocast
        self.device = torch.device(place.device)
        self.plan = batches.training(config.seed, 0, len(split), config.batch_size, split.lengths)

    def shares(self, accumulate: int) -> list[Tensor]:
        """Lists this rank's micro-batches of the first epoch, a function of the settings alone."""
        parts = [batches.share(batch_B, accumulate, self.place.rank, self.place.world) for batch_B in self.plan]
        return [own for part in parts for own, _ in part]

    def run(self, network: nn.Module, index_B: Tensor) -> None:
        """Learns nothing from examples: gradients are computed and thrown away."""
        torch.manual_seed(step_seed(self.config.seed, 0, self.place.rank))
        with self.autocast():
            loss = self.loss(network, self.split.batch(index_B.to(self.device), Draw(self.config.seed, 0)))
        loss.backward()
        for weight in network.parameters():
            weight.grad = None

    def seconds(self, network: nn.Module, index_B: Tensor) -> float:
        """Times a pass."""
        began = time.perf_counter()
        self.run(network, index_B)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began

    def gain(self, one: nn.Module, other: nn.Module, parts: list[Tensor]) -> float:
        """Says how many times faster the other network runs over micro-batches, by alternating pairs; all ranks agree.

        Both must be warm.
        """
        ratios: list[float] = []
        until = time.monotonic() + BUDGET_S
        for number in range(ROUNDS):
            index_B = parts[number % len(parts)]
            order = (one, other) if number % 2 else (other, one)
            took = {id(network): self.seconds(network, index_B) for network in order}
            ratios.append(took[id(one)] / took[id(other)])
            if time.monotonic() > until and number + 1 >= LEAST_ROUNDS:
                break
        return self.mean(statistics.median(ratios))

    def mean(self, value: float) -> float:
        """Averages a figure over ranks, so that all decide alike."""
        figure = torch.tensor([value], dtype=torch.float64, device=self.device)
        return collectives.sum_over_ranks(figure, self.place.world).item() / self.place.world

    @contextmanager
    def untouched(self, network: nn.Module) -> Iterator[None]:
        """Puts buffers, gradients, mode and torch's generators back as they were."""
        kept = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
        training = network.training
        network.train()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            try:
                yield
            finally:
                with torch.no_grad():
                    for buffer, value in kept:
                        buffer.copy_(value)
                for weight in network.parameters():
                    weight.grad = None
                network.train(training)
