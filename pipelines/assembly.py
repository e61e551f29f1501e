"""Puts together what the loop steps with: the network as settings want it, its optimizer, its average."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines import choices, memory, numerics
from pipelines.averaging import Average
from pipelines.examples import Split
from pipelines.passes import Workload
from pipelines.place import Place
from pipelines.replica import prepare, replicate
from pipelines.settings import Settings
from pipelines.steps import Stepper
from pipelines.tasks import Task


def assemble(
    task: Task,
    config: Settings,
    model: Any,
    train: Split,
    place: Place,
    run_dir: Path,
    steps: int,
    emit: Callable[[dict[str, Any]], None],
) -> Stepper:
    """Moves a new model to its device, in shares where asked for, and makes what takes a run's `steps` steps on it.

    Every rank calls it with the same model, and with the training split on the device.
    """
    device = torch.device(place.device)
    network: nn.Module = model.network
    prepare(network, task.train, config, place)
    model.to(device)
    work = Workload(task.train.loss, train, config, place, numerics.autocast(config, device))
    settled = choices.settle(network, work, run_dir, steps, emit)
    pieces = memory.recorded(run_dir, memory.STEPS, place)
    replica = replicate(
        settled.replica, settled.accumulate * pieces, place.world, getattr(task.train, "STATIC_GRAPH", True)
    )
    groups = getattr(task.train, "groups", _one_group)(network, config)
    stepper = Stepper(replica, task.train.loss, groups, config, device, place.rank, place.world)
    stepper.accumulate, stepper.pieces = settled.accumulate, pieces
    stepper.average = Average(network, config.ema, place) if config.ema else None
    return stepper


def _one_group(network: nn.Module, config: Settings) -> list[dict[str, Any]]:
    return [{"params": [parameter for parameter in network.parameters() if parameter.requires_grad]}]
