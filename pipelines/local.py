"""Runs the loop in this process, alone or as one of torchrun's, without Ray."""

import os
from pathlib import Path
from typing import Any

from pipelines import journaling, loop, memory
from pipelines.place import Place
from pipelines.runs import Run
from pipelines.saving import Keeping
from pipelines.settings import Launch
from pipelines.stopping import Notice


def train(runs: list[Run], launch: Launch) -> None:
    """Trains the runs one after the other. Raises ValueError as the loop does, and Stopped after SIGTERM."""
    import torch
    import torch.distributed as dist

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if launch.gpu and not torch.cuda.is_available():
        raise ValueError("--gpu asks for a GPU and this machine has none that PyTorch can use; leave it out")
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if launch.gpu else "cpu"
    threads = launch.threads or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if world > 1:
        dist.init_process_group("nccl" if launch.gpu else "gloo")
    for number, run in enumerate(runs):
        folder = _agree(run.folder, number, rank, world)
        place = Place(rank, world, device, threads)
        keeping = Keeping(launch.keep, launch.storage, launch.resume_anyway)
        saving: dict[str, Any] = {"checkpoint_steps": launch.checkpoint_steps, "keeping": keeping}
        with journaling.opened(folder) as journal, journaling.noted(journal, rank), Notice() as stop:
            try:
                loop.run(run.task, run.config, folder, place, journal.append, stop=stop, **saving)
            except memory.Exhausted as problem:
                raise ValueError(f"{problem}; `--resume {folder}` resumes it") from problem
    if world > 1:
        dist.destroy_process_group()


def _agree(folder: Path, number: int, rank: int, world: int) -> Path:
    """Gives every rank rank 0's folder, through the store that the processes met at."""
    if world == 1:
        return folder
    import torch.distributed as dist

    store = dist.distributed_c10d._get_default_store()
    key = f"eagerly/run/{number}"
    if rank == 0:
        store.set(key, str(folder))
    return Path(store.get(key).decode())
