"""What ranks tell each other besides gradients; each does nothing in a world of one."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


def sum_over_ranks(value: Tensor, world: int) -> Tensor:
    """Adds a tensor up over all ranks."""
    if world > 1:
        dist.all_reduce(value)
    return value


def sum_statistics(sums: dict[str, Tensor], world: int) -> dict[str, Tensor]:
    """Adds named statistics up over ranks in one message; every rank has the same names and shapes."""
    if world == 1:
        return sums
    flat = torch.cat([sums[name].reshape(-1).double() for name in sorted(sums)])
    dist.all_reduce(flat)
    parts = flat.split([sums[name].numel() for name in sorted(sums)])
    return {name: part.reshape(sums[name].shape) for name, part in zip(sorted(sums), parts, strict=True)}


def average_buffers(network: nn.Module, world: int) -> None:
    """Makes the buffers of all ranks equal, running means as the mean over ranks, counters as rank 0's."""
    if world == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= world
        else:
            dist.broadcast(buffer, 0)
