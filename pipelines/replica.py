"""What the loop steps on: the network as one rank holds it, joined to the other ranks' as settings ask."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines import recomputing, sharding
from pipelines.place import Place
from pipelines.settings import Settings


def prepare(network: nn.Module, train: ModuleType, config: Settings, place: Place) -> None:
    """Makes a new network forget activations and shares it out, as settings ask; its weights are still as created.

    A task may name the network's blocks in its train.py, `BLOCKS = ("encoder.layer.*",)`. One worker has nothing to
    share out. Raises ValueError for blocks that are not there.
    """
    patterns: tuple[str, ...] = getattr(train, "BLOCKS", ())
    if config.recompute:
        recomputing.recompute(network, patterns)
    if config.shard and place.world > 1:
        sharding.shard(network, recomputing.blocks(network, patterns), torch.device(place.device), place.world)


def replicate(replica: nn.Module, accumulate: int, world: int, static: bool) -> nn.Module:
    """Joins a network to those of other ranks; `static` says that every batch draws the same autograd graph."""
    if world == 1 or sharding.is_sharded(replica):
        return replica
    return DistributedDataParallel(
        replica,
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,
        static_graph=static and accumulate == 1,
        find_unused_parameters=not static,
    )


def rejoin(replica: nn.Module, accumulate: int) -> nn.Module:
    """Joins a network anew that was joined for one micro-batch a step, where a checkpoint asks for several."""
    if isinstance(replica, DistributedDataParallel) and replica.static_graph and accumulate > 1:
        return replicate(replica.module, accumulate, dist.get_world_size(), static=True)
    return replica


@contextmanager
def held(replica: nn.Module, last: bool) -> Iterator[None]:
    """Holds back the averaging of gradients over ranks until the last micro-batch."""
    if isinstance(replica, DistributedDataParallel) and not last:
        with replica.no_sync():
            yield
        return
    if sharding.is_sharded(replica):
        replica.set_requires_gradient_sync(last)  # type: ignore[operator]
    yield
