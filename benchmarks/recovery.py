"""From the SIGKILL of a worker to the run's next step, against Ray's own restart of a group that only imports the same.

`python -m benchmarks.recovery [--pairs 5]` starts one Ray cluster and alternates, in it, two workers that train the
parity example with a checkpoint every 10 steps, and two whose function imports the same modules and does one
collective. One worker is killed; ours is timed to the first step it had not taken before, the bare one to the end of
its collective. The figure is the median difference, with a bootstrap interval over the pairs.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving import interval
from pipelines import launch, runs, tasks
from pipelines.journal import Reader
from pipelines.settings import Launch

LIMIT_SECONDS = 3.0
PARITY = str(Path(__file__).resolve().parents[1] / "examples" / "parity")
SAME = (
    "torch._dynamo",
    "pipelines.workers",
    "pipelines.loop",
    "pipelines.ledger",
    "pipelines.runs",
    "pipelines.release",
    "pipelines.watch",
    "ray.util.metrics",
    "safetensors.torch",
)
"""What a worker of ours has imported at its first step, besides the task itself."""
KILL_STEP = 60
PATIENCE_SECONDS = 300.0


def workers() -> list[psutil.Process]:
    """Finds the training workers of the Ray cluster that this process started, the newest last."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append((process.create_time(), process.pid, process))
        except psutil.Error:
            continue
    return [process for _, _, process in sorted(found)]


def kill_when(ready: Callable[[], bool], killed: list[float], number: int = signal.SIGKILL) -> None:
    """Kills a worker once `ready` says so, and notes when (seconds since 1970)."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
    killed.append(time.time())
    os.kill(workers()[-1].pid, number)


def ours(folder: Path) -> float:
    """Trains, kills a worker, and gives the seconds until the first step that had not been taken."""
    how = Launch(workers=2, threads=1, checkpoint_steps=10, max_failures=1)
    task = tasks.find(PARITY)
    run = runs.create(PARITY, task, task.config.Config(epochs=8), how, folder / "ours")
    killed: list[float] = []

    def steps() -> list[dict[str, Any]]:
        return [event for event in Reader(run.folder).new_events() if event["event"] == "steps"]

    ready = threading.Thread(target=kill_when, args=(lambda: any(e["first"] >= KILL_STEP for e in steps()), killed))
    ready.start()
    launch.train([run], how)
    ready.join()
    before = max(event["first"] + len(event["losses"]) for event in steps() if event["time"] < killed[0] + 0.1)
    new = (event for event in steps() if event["first"] + len(event["losses"]) > before)
    return next(event["time"] for event in new if event["time"] > killed[0]) - killed[0]


def bare(folder: Path) -> float:
    """Starts a group that imports the same, kills a worker, and gives the seconds until the next collective's end."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    marks = folder / "marks"
    marks.mkdir()
    killed: list[float] = []
    ready = threading.Thread(target=kill_when, args=(lambda: len(list(marks.iterdir())) == 1, killed))
    ready.start()
    TorchTrainer(
        imported,
        train_loop_config={"marks": str(marks), "modules": SAME, "task": PARITY},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="bare", storage_path=str(folder), failure_config=FailureConfig(max_failures=1)),
    ).fit()
    ready.join()
    return max(json.loads(path.read_text()) for path in marks.iterdir()) - killed[0]


def imported(settings: dict[str, Any]) -> None:
    """Runs in the bare workers: imports, one collective, a mark of when it was done; the first time, waits."""
    import importlib

    import torch
    import torch.distributed as dist

    for name in settings["modules"]:
        importlib.import_module(name)
    task = tasks.find(settings["task"])
    assert task.config and task.data and task.model and task.train
    dist.all_reduce(torch.zeros(1))
    marks = Path(settings["marks"])
    first = not any(marks.iterdir())
    dist.barrier()
    if dist.get_rank() == 0:
        (marks / f"{time.time()}.json").write_text(json.dumps(time.time()))
    if first:
        time.sleep(PATIENCE_SECONDS)


def main() -> None:
    """Alternates the two and prints each pair's difference, and the median with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    pairs, beyond = parser.parse_args().pairs, []
    launch.start_ray(Launch(workers=2), cores=4)
    for pair in range(pairs):
        folder = Path(tempfile.mkdtemp(prefix="eagerly-recovery-"))
        both = (ours, bare) if pair % 2 else (bare, ours)
        took = {measure.__name__: measure(folder) for measure in both}
        beyond.append(took["ours"] - took["bare"])
        print(f"pair {pair}: {took['ours']:.1f} s ours, {took['bare']:.1f} s bare, {beyond[-1]:+.1f} s", flush=True)
    low, high = interval(beyond)
    middle = statistics.median(beyond)
    print(
        f"kill to next step: {middle:+.2f} s beyond Ray's own restart [{low:+.2f}, {high:+.2f}]; asked {LIMIT_SECONDS}"
    )
    sys.exit(middle > LIMIT_SECONDS)


if __name__ == "__main__":
    main()
