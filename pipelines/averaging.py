"""The exponential moving average of a network's weights: what is evaluated and written while training goes on.

Polyak and Juditsky, 1992, for averages; the decay that grows with the steps is that of TensorFlow's
ExponentialMovingAverage, so that a short run's average is not its first weights.
Shapes: R ranks, S numbers of all statistics together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipelines import collectives, sharding
from pipelines.place import Place


class Average:
    """Averages what is learned and, by the same decay, the running statistics of normalisation.

    Statistics must belong to the averaged weights, and those of the raw weights are younger; so they are averaged
    too. Whole-number buffers, such as batch norm's counter, are the network's own. Lives on the network's device; of
    a sharded network each rank averages its share.
    """

    def __init__(self, network: nn.Module, decay: float, place: Place) -> None:
        """Begins with the weights as they are."""
        self.network, self.decay, self.place = network, decay, place
        self._learned = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        with torch.no_grad():
            self._averages = [value.detach().clone() for value in self._values()]

    def _values(self) -> list[Tensor]:
        return [sharding.local(value) for value in (*self._learned.values(), *self._statistics)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the averages towards the weights after a step, counted from 0."""
        torch._foreach_lerp_(self._averages, self._values(), 1 - min(self.decay, (1 + step) / (10 + step)))  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchanges the network's weights and the averages, in place."""
        values = self._values()
        copies = [value.clone() for value in values]
        torch._foreach_copy_(values, self._averages)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_copy_(self._averages, copies)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Lets the network be its average for a while, whose statistics are the mean over ranks; all enter together."""
        if self.place.world > 1:
            self._set_statistics(self._gathered().mean(0))
        with self._swapped():
            yield

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Any]:
        """Gives the averages by name, and each rank's statistics; every rank calls it, and rank 0 gets them."""
        statistics_RS = self._gathered()
        if not sharding.is_sharded(self.network):
            return {"weights": dict(zip(self._learned, self._averages, strict=False)), "statistics": statistics_RS}
        with self._swapped():
            whole = sharding.network_state(self.network)
            weights = {name: value.clone() for name, value in whole.items() if name in self._learned}
        return {"weights": weights, "statistics": statistics_RS}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave; in another number of ranks, each has the mean of the statistics."""
        weights, statistics_RS = state["weights"], state["statistics"]
        alike = len(statistics_RS) == self.place.world
        if sharding.is_sharded(self.network):
            with self._swapped():
                sharding.load_network(self.network, weights, strict=False)
        else:
            own = self._averages[: len(self._learned)]
            torch._foreach_copy_(own, [weights[name] for name in self._learned])  # pyright: ignore[reportPrivateImportUsage]
        self._set_statistics(statistics_RS[self.place.rank] if alike else statistics_RS.mean(0))

    def _gathered(self) -> Tensor:
        """Gives the averaged statistics of all ranks, [R, S], float64, which holds them exactly."""
        averages = [value.reshape(-1).double() for value in self._averages[len(self._learned) :]]
        own_S = torch.cat(averages) if averages else torch.zeros(0, dtype=torch.float64)
        ranks_RS = own_S.new_zeros(self.place.world, len(own_S))
        ranks_RS[self.place.rank] = own_S
        return collectives.sum_over_ranks(ranks_RS, self.place.world) if averages else ranks_RS

    def _set_statistics(self, statistics_S: Tensor) -> None:
        at = 0
        for value in self._averages[len(self._learned) :]:
            value.copy_(statistics_S[at : at + value.numel()].view(value.shape))
            at += value.numel()
