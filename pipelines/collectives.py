"""What ranks tell each other besides gradients; each does nothing in a world of one."""

import json
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def sum_over_ranks(value: Tensor, world: int) -> Tensor:
    """Adds a tensor up over all ranks."""
    if world > 1:
        dist.all_reduce(value)
    return value


def most_over_ranks(value: Tensor, world: int) -> Tensor:
    """Finds the largest over all ranks."""
    if world > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def gather_texts(text: str, world: int, device: torch.device) -> list[str]:
    """Collects a text of each rank, in their order."""
    if world == 1:
        return [text]
    own = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
    longest = int(most_over_ranks(torch.tensor(len(own), device=device), world))
    padded = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in range(world)]
    dist.all_gather(padded, torch.cat([own, own.new_full((longest - len(own),), ord(" "))]))
    return [bytes(one.tolist()).decode() for one in padded]


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


def share(
    skeleton: Any, tensors: Mapping[str, Tensor], rank: int, world: int, device: torch.device
) -> tuple[Any, dict[str, Tensor]]:
    """Gives every rank what rank 0 has: something JSON can say, and tensors by name, in host memory."""
    if world == 1:
        return skeleton, dict(tensors)
    kinds = {name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in tensors.items()}
    text = _share_bytes(json.dumps([skeleton, kinds]).encode(), rank, device)
    skeleton, kinds = json.loads(text)
    shared = {}
    for name, (kind, shape) in kinds.items():
        empty = torch.empty(shape, dtype=getattr(torch, kind), device=device)
        value = tensors[name].to(device).contiguous() if rank == 0 else empty
        if value.numel():
            dist.broadcast(value.view(-1).view(torch.uint8), 0)
        shared[name] = value.cpu()
    return skeleton, shared


def _share_bytes(text: bytes, rank: int, device: torch.device) -> bytes:
    length_1 = torch.tensor([len(text)], device=device)
    dist.broadcast(length_1, 0)
    text_L = torch.zeros(int(length_1), dtype=torch.uint8, device=device)
    if rank == 0:
        text_L.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(text_L, 0)
    return text_L.cpu().numpy().tobytes()


def statistics(network: nn.Module) -> list[Tensor]:
    """Lists the floating-point buffers of a network, which differ between ranks within an epoch."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]


def gather_numbers(values: list[Tensor], world: int) -> Tensor:
    """Gives the numbers in tensors of all ranks, float64 [ranks, numbers], which holds those of float32 exactly."""
    flat = [value.detach().reshape(-1).double() for value in values]
    own_N = torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
    if world == 1 or not len(own_N):
        return own_N.expand(world, -1)
    parts = [torch.empty_like(own_N) for _ in range(world)]
    dist.all_gather(parts, own_N)
    return torch.stack(parts)


def own_numbers(ranks_RN: Tensor, rank: int, world: int) -> Tensor:
    """Gives a rank its row of what `gather_numbers` gave; in another number of ranks, each has the mean."""
    return ranks_RN[rank] if len(ranks_RN) == world else ranks_RN.mean(0)


@torch.no_grad()
def set_numbers(values: list[Tensor], numbers_N: Tensor) -> None:
    """Sets tensors to numbers in the order in which `gather_numbers` gives them."""
    at = 0
    for value in values:
        value.copy_(numbers_N[at : at + value.numel()].reshape(value.shape))
        at += value.numel()


def gather_buffers(network: nn.Module, world: int) -> Tensor | None:
    """Gives the floating-point buffers of all ranks, float64 [ranks, numbers]; None where there are none to differ."""
    found = statistics(network)
    return gather_numbers(found, world) if world > 1 and found else None
