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
        self._statistics = collectives.statistics(network)
        with torch.no_grad():
            self._weights = [weight.detach().clone() for weight in self._shares()]
            self._average_S = self._joined() if self._statistics else torch.zeros(0)
        parts = self._average_S.split([value.numel() for value in self._statistics])
        self._parts = [part.view(value.shape) for part, value in zip(parts, self._statistics, strict=True)]
        """The averaged statistics, each in its shape; one tensor holds them all, so that a step takes few kernels."""

    def _shares(self) -> list[Tensor]:
        return [sharding.local(weight) for weight in self._learned.values()]

    def _joined(self) -> Tensor:
        return torch.cat([value.reshape(-1) for value in self._statistics])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the averages towards the weights after a step, counted from 0.

        Statistics that are not finite, as those of a step that was skipped, are passed over until they are mended.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._weights, self._shares(), weight)  # pyright: ignore[reportPrivateImportUsage]
        if self._statistics:
            way_S = self._joined().sub_(self._average_S).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            self._average_S.add_(way_S, alpha=weight)

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchanges the network's weights and the averages, in place."""
        values, averages = [*self._shares(), *self._statistics], [*self._weights, *self._parts]
        copies = [value.clone() for value in values]
        torch._foreach_copy_(values, averages)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_copy_(averages, copies)  # pyright: ignore[reportPrivateImportUsage]
        sharding.forget_whole(self.network)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Lets the network be its average for a while, whose statistics are the mean over ranks; all enter together."""
        if self.place.world > 1:
            collectives.set_numbers(self._parts, self._gathered().mean(0))
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
            return {"weights": dict(zip(self._learned, self._weights, strict=True)), "statistics": statistics_RS}
        with self._swapped():
            whole = sharding.network_state(self.network)
            weights = {name: value.clone() for name, value in whole.items() if name in self._learned}
        return {"weights": weights, "statistics": statistics_RS}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave; in another number of ranks, each has the mean of the statistics."""
        weights = state["weights"]
        if sharding.is_sharded(self.network):
            with self._swapped():
                sharding.load_network(self.network, weights, strict=False)
        else:
            torch._foreach_copy_(self._weights, [weights[name] for name in self._learned])  # pyright: ignore[reportPrivateImportUsage]
        own_S = collectives.own_numbers(state["statistics"], self.place.rank, self.place.world)
        collectives.set_numbers(self._parts, own_S)

    def _gathered(self) -> Tensor:
        return collectives.gather_numbers(self._parts, self.place.world)
