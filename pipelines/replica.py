"""What the loop steps on: the network as one rank holds it, compiled and joined to the other ranks' as settings ask."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.settings import Settings


def replicate(network: nn.Module, config: Settings, world: int, static: bool) -> nn.Module:
    """Wraps a network for training; `static` says that every batch draws the same autograd graph."""
    replica: nn.Module = torch.compile(network) if config.compile else network  # type: ignore[assignment]
    if world == 1:
        return replica
    return DistributedDataParallel(
        replica,
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,
        static_graph=static and config.accumulate == 1,
        find_unused_parameters=not static,
    )
