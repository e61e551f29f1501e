"""Groups of ranks in processes of their own, which end in various ways: for tests of restarts without Ray."""

import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from training import ROOT

from pipelines import ledger, loop, tasks
from pipelines.journal import Journal
from pipelines.place import Place

PARITY = str(ROOT / "examples" / "parity")
PATIENCE_SECONDS = 90
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "torch._dynamo", "pipelines.loop"])


@dataclass(frozen=True)
class Ending:
    """How a group ends before its run does: "killed", "stopped", or by itself; from about which step on."""

    how: str = ""
    step: int = 0


def train(run_dir: Path, ledger_dir: Path, world: int, ending: Ending, **flags: Any) -> list[str]:
    """Trains a run in a group of `world` ranks under gloo; says of each rank how it ended."""
    attempt = len(list(run_dir.glob("store-*")))
    store = run_dir / f"store-{attempt}"
    run_dir.mkdir(parents=True, exist_ok=True)
    store.touch()
    answers = _context.SimpleQueue()
    arguments = [(rank, world, store, run_dir, ledger_dir, attempt, ending, flags, answers) for rank in range(world)]
    processes = [_context.Process(target=_rank, args=own, daemon=True) for own in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_SECONDS)
        assert process.exitcode is not None, "a rank did not end"
    said = {}
    while not answers.empty():
        rank, words = answers.get()
        said[rank] = words
    return [said.get(rank, f"exit {processes[rank].exitcode}") for rank in range(world)]


def _rank(
    rank: int,
    world: int,
    store: Path,
    run_dir: Path,
    ledger_dir: Path,
    attempt: int,
    ending: Ending,
    flags: dict[str, Any],
    answers: Any,
) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    task = tasks.find(PARITY)
    config = task.config.Config(**flags)
    path = ledger_dir / run_dir.name / f"{attempt:04d}-{rank:04d}-of-{world:04d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    journal, seen = Journal(run_dir), [0]

    def emit(event: dict[str, Any]) -> None:
        journal.append(event)
        if event["event"] == "steps":
            seen[0] = event["first"] + len(event["losses"])
        if ending.how == "killed" and seen[0] >= ending.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def stop() -> str:
        return "told to" if ending.how == "stopped" and seen[0] >= ending.step else ""

    data = ledger.wrap(task.data.load(config), path)
    try:
        loop.run(task, config, run_dir, Place(rank, world), emit, data, checkpoint_steps=8, stop=stop)
        answers.put((rank, "done"))
    except Exception as problem:  # told to the test
        answers.put((rank, f"{type(problem).__name__}: {problem}"))
    os._exit(0)  # a group without one of its ranks cannot be taken down in order
