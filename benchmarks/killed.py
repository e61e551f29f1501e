"""A worker that `benchmarks.kills` kills: one rank of a run, a plain process that meets the others through gloo."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines import loop, tasks
from pipelines.journal import Journal
from pipelines.place import Place


def train(rank: int, world: int, meeting: str, folder: str, word: str, flags: dict[str, Any], steps: int) -> None:
    """Trains a run to its end, from its newest checkpoint if it has one; what it complains of goes to a file.

    meeting: a file that does not exist yet, where the ranks find each other. steps: between checkpoints.
    """
    run_dir = Path(folder)
    run_dir.mkdir(parents=True, exist_ok=True)
    complaints = os.open(run_dir / f"stderr-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(complaints, 2)
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    task = tasks.find(word)
    journal = Journal(run_dir) if rank == 0 else None
    emit = journal.append if journal else _nothing
    loop.run(task, task.config.Config(**flags), run_dir, Place(rank, world), emit, checkpoint_steps=steps)
    if journal:
        journal.close()


def _nothing(event: dict[str, Any]) -> None:
    pass
