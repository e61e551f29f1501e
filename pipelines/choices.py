"""What `auto` settles before the first step: measured once, the same on all ranks, kept in the run's folder.

A run that is resumed takes what was chosen and measures nothing, so that it goes on with the same kernels.
"""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines import collectives, compiling, microbatch, sealed
from pipelines.passes import MARGIN, Workload

FILE = "choices.json"
NAMES = ("micro_batch", "channels_last", "compile")
UNKNOWN = -1
Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Settled:
    """How a network is stepped on."""

    replica: nn.Module
    """The network, compiled where that was asked for or pays."""
    accumulate: int
    """Micro-batches of a step."""


def settle(network: nn.Module, work: Workload, run_dir: Path, steps: int, emit: Emit) -> Settled:
    """Carries out what the settings say and chooses where they say auto, of a run of `steps` steps.

    Every rank calls it. Raises ValueError where a choice that was asked for cannot be made.
    """
    config = work.config
    known: dict[str, int] = {name: UNKNOWN for name in NAMES}  # noqa: C420 - its keys are any words
    autos = [name for name in NAMES if getattr(config, name) == "auto"]
    if autos:
        known = _recorded(run_dir, work)
    accumulate = _accumulate(network, work, known, emit)
    if _channels_last(network, work, known, emit):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    replica = _compile(network, work, accumulate, known, steps, emit)
    if autos and work.place.rank == 0:
        sealed.put(run_dir / FILE, json.dumps({name: known[name] for name in autos}) + "\n")
    return Settled(replica, accumulate)


def _accumulate(network: nn.Module, work: Workload, known: dict[str, int], emit: Emit) -> int:
    """Says how many micro-batches keep each worker's within what was asked for, or what fits."""
    size = work.config.micro_batch
    if not size:
        return work.config.accumulate
    found: dict[str, Any] = {}
    if size == "auto":
        if known["micro_batch"] == UNKNOWN:
            neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", work.place.world))
            known["micro_batch"], found = microbatch.largest(network, work, neighbours)
        size = known["micro_batch"]
    accumulate = max(1, -(-work.config.batch_size // (size * work.place.world)))
    emit({"event": "micro_batch", "examples": size, "accumulate": accumulate, **found})
    return accumulate


def _channels_last(network: nn.Module, work: Workload, known: dict[str, int], emit: Emit) -> bool:
    asked = work.config.channels_last
    if asked != "auto":
        return asked == "yes"
    if known["channels_last"] == UNKNOWN:
        known["channels_last"], gain = 0, 1.0
        if any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in network.modules()):
            twin = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            parts = work.shares(1)[: compiling.WARM_BATCHES]
            with work.untouched(network), work.untouched(twin):
                for index_B in parts:
                    work.run(network, index_B)
                    work.run(twin, index_B)
                gain = work.gain(network, twin, parts)
            known["channels_last"] = int(gain >= MARGIN)
        emit({"event": "channels_last", "used": bool(known["channels_last"]), "gain": gain})
    return bool(known["channels_last"])


def _compile(
    network: nn.Module, work: Workload, accumulate: int, known: dict[str, int], steps: int, emit: Emit
) -> nn.Module:
    asked = work.config.compile
    if asked == "no" or (asked == "auto" and known["compile"] == 0):
        return network
    parts = work.shares(accumulate)
    if asked == "auto" and known["compile"] == UNKNOWN:
        replica = compiling.fastest(network, work, parts, steps * accumulate, emit)
        known["compile"] = int(replica is not None)
        return network if replica is None else replica
    compiling.check_compiler(work.device)
    replica, seconds = compiling.warm_up(network, work, parts)
    emit({"event": "compiled", "used": True, "seconds": seconds, **vars(compiling.report())})
    return replica


def _recorded(run_dir: Path, work: Workload) -> dict[str, int]:
    """Reads rank 0's file and tells all ranks."""
    found = torch.full((len(NAMES),), UNKNOWN, dtype=torch.float64, device=work.device)
    if work.place.rank == 0 and (run_dir / FILE).exists():
        kept = json.loads((run_dir / FILE).read_text())
        found[:] = torch.tensor([float(kept.get(name, UNKNOWN)) for name in NAMES])
    if work.place.rank:
        found.zero_()
    told = collectives.sum_over_ranks(found, work.place.world).tolist()
    return dict(zip(NAMES, (int(value) for value in told), strict=True))
