"""Which examples make up each step: a function of (seed, epoch) alone, shared out to ranks."""

import torch
from torch import Tensor

from pipelines.examples import permutation

POOL = 32
"""Batches whose examples are sorted by length together, so that a batch pads little and order stays random."""


def training(
    seed: int, epoch: int, count: int, batch_size: int, lengths: Tensor | None, device: torch.device | None = None
) -> list[Tensor]:
    """Lists the global batches of an epoch, on a device; each example is in exactly one.

    With lengths [N], examples of like length share a batch, and the batches come in random order.
    """
    order_N = permutation(seed, epoch, count)
    if lengths is None:
        return list(order_N.to(device).split(batch_size))
    lengths = lengths.cpu()
    pools = [pool[lengths[pool].argsort(stable=True)] for pool in order_N.split(POOL * batch_size)]
    batches = [batch for pool in pools for batch in pool.to(device).split(batch_size)]
    return [batches[at] for at in permutation(seed, -1 - epoch, len(batches)).tolist()]


def evaluation(count: int, batch_size: int, lengths: Tensor | None, rank: int, world: int) -> list[Tensor]:
    """Lists one rank's share of a split in batches; the shares of all ranks make up the whole."""
    order_N = torch.arange(count) if lengths is None else lengths.cpu().argsort(stable=True)
    return list(order_N[rank::world].split(batch_size))


def share(batch_B: Tensor, accumulate: int, rank: int, world: int) -> list[tuple[Tensor, float]]:
    """Splits a global batch into this rank's micro-batches, each with the weight of its mean loss.

    Averaged over ranks and summed over micro-batches, the weighted losses give the global batch's mean,
    however unevenly it divides. A rank without an example gets one with weight 0, so that it still takes part.
    """
    if accumulate == world == 1:
        return [(batch_B, 1.0)]
    parts = []
    for micro in batch_B.tensor_split(accumulate):
        own = micro[rank::world]
        weight = len(own) * world / len(batch_B)
        parts.append((own, weight) if len(own) else (batch_B[:1], 0.0))
    return parts


def cut(micro_batches: list[tuple[Tensor, float]], pieces: int) -> list[tuple[Tensor, float]]:
    """Cuts micro-batches into pieces that need less memory, none of them empty, weighted by share."""
    parts = []
    for own, weight in micro_batches:
        for piece in own.tensor_split(min(pieces, len(own))):
            parts.append((piece, weight * len(piece) / len(own)))
    return parts
