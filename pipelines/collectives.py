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


def gather_buffers(network: nn.Module, world: int) -> Tensor | None:
    """Gives the floating-point buffers of all ranks, float64 [ranks, numbers]; None where there are none to differ."""
    found = [buffer.detach().reshape(-1).double() for buffer in network.buffers() if buffer.is_floating_point()]
    if world == 1 or not found:
        return None
    own_N = torch.cat(found)
    parts = [torch.empty_like(own_N) for _ in range(world)]
    dist.all_gather(parts, own_N)
    return torch.stack(parts)


@torch.no_grad()
def set_buffers(network: nn.Module, values_N: Tensor) -> None:
    """Sets the floating-point buffers to numbers in the order in which `gather_buffers` gives them."""
    at = 0
    for buffer in network.buffers():
        if buffer.is_floating_point():
            values = values_N[at : at + buffer.numel()].reshape(buffer.shape)
            buffer.copy_(values.to(buffer.device, buffer.dtype))
            at += buffer.numel()
