"""Step time and peak memory of each option of training against none of them, for the three tasks.

`python -m benchmarks.training_speed [--tasks classifier ...] [--option="--amp bf16" ...] [--pairs 15] [--gpu]` makes
two models from one seed, one plain and one with the option, and times blocks of the same steps of both in alternating
order: forward, backward and optimizer, warm. A ratio above 1 is a faster step or a smaller peak; its interval is a
bootstrap over the pairs. The peak is of tensors on a CPU, of PyTorch's allocator on a GPU, over weights, gradients and
optimizer state that are there already. Raw results go to benchmarks/results/training_speed.json.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.serving import interval
from eagerly import flags
from pipelines import batches, microbatch, numerics, tasks
from pipelines.assembly import assemble
from pipelines.examples import Data, Draw, step_seed
from pipelines.place import Place
from pipelines.settings import Settings
from pipelines.tasks import Task

OPTIONS = (
    "--amp bf16",
    "--amp fp16",
    "--channels-last yes",
    "--compile yes",
    "--recompute",
    "--micro-batch QUARTER",
    "--ema 0.999",
    "--deterministic",
)
"""QUARTER stands for a quarter of the task's batch size."""
WARM_STEPS = 3
BLOCK_S = 0.3
"""Seconds of a timed block, about."""
RESULTS = Path(__file__).parent / "results" / "training_speed.json"


class Side:
    """One model, ready to take steps."""

    def __init__(self, task: Task, config: Settings, data: Data, place: Place) -> None:
        """Makes it as a run would, and warms it up."""
        self.config, self.device = config, torch.device(place.device)
        self.train = data.train.to(self.device)
        torch.manual_seed(step_seed(config.seed, -1, 0))
        model = task.model.Model.create(config, data)
        self.events: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as scratch:
            arguments = (task, config, model, self.train, place, Path(scratch), 10_000, self.events.append)
            self.stepper = assemble(*arguments)
        plan = batches.training(config.seed, 0, len(self.train), config.batch_size, self.train.lengths)
        self.plan = [batch_B.to(self.device) for batch_B in plan]
        self.stepper.network.train()
        self.steps(0, WARM_STEPS)

    def steps(self, first: int, count: int) -> float:
        """Takes steps; returns milliseconds for each."""
        began = time.perf_counter()
        with numerics.chosen(self.config, self.device):
            for step in range(first, first + count):
                draw = Draw(self.config.seed, step // len(self.plan))
                self.stepper.step(self.train, self.plan[step % len(self.plan)], draw, step, 10_000)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        return (time.perf_counter() - began) / count * 1e3

    def peak_bytes(self) -> int:
        """Measures what a step on the largest batch takes at most."""
        largest_B = max(self.plan, key=len)
        self.stepper.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        arguments = (self.train, largest_B, Draw(self.config.seed, 0), 0, 10_000)
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.stepper.step(*arguments)
            return torch.cuda.max_memory_allocated(self.device) - before
        with microbatch.Peak() as peak:
            self.stepper.step(*arguments)
        return peak.most


def compare(word: str, option: str, pairs: int, place: Place) -> dict[str, Any]:
    """Times an option against plain training, and measures the peaks of both."""
    task = tasks.find(word)
    plain = task.config.Config()
    option = option.replace("QUARTER", str(-(-plain.batch_size // 4)))
    data = task.data.load(plain)
    sides = {
        "plain": Side(task, plain, data, place),
        "option": Side(task, flags.parse(task.config.Config, option.split(), word), data, place),
    }
    count = max(1, round(BLOCK_S * 1e3 / sides["plain"].steps(WARM_STEPS, 3)))
    ratios, took = [], dict[str, list[float]](plain=[], option=[])
    for pair in range(pairs):
        for name in ("plain", "option") if pair % 2 else ("option", "plain"):
            took[name].append(sides[name].steps(10 + pair * count, count))
        ratios.append(took["plain"][-1] / took["option"][-1])
    compiled = [event for event in sides["option"].events if event["event"] == "compiled"]
    memory = {name: _peak(side) for name, side in sides.items()}
    medians = {name: statistics.median(values) for name, values in took.items()}
    return {"task": word, "option": option, "ms": medians, "ratios": ratios, "bytes": memory, "compiled": compiled}


def _peak(side: Side) -> int | None:
    """Measures a peak; a compiled network's kernels hold what tensors do not show on a CPU."""
    if side.config.compile != "no" and side.device.type == "cpu":
        return None
    return side.peak_bytes()


def row(found: dict[str, Any]) -> str:
    """Puts a comparison into a line of a table."""
    low, high = interval(found["ratios"])
    ratio = f"{statistics.mean(found['ratios']):.2f} ({low:.2f} to {high:.2f})"
    ms, size = found["ms"], found["bytes"]
    memory = "not seen | not seen |"
    if None not in size.values():
        memory = f"{size['plain'] / 2**20:.1f} | {size['option'] / 2**20:.1f} | {size['plain'] / size['option']:.2f}"
    return f"| {found['task']} | {found['option']} | {ms['plain']:.2f} | {ms['option']:.2f} | {ratio} | {memory} |"


def main() -> None:
    """Prints a table of all tasks and options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(tasks.TASKS))
    parser.add_argument("--option", action="append", help='one option, such as --option="--amp bf16"; may be repeated')
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to PyTorch")
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    place = Place(device="cuda:0" if given.gpu else "cpu")
    print("| task | option | plain ms | with it ms | times as fast | plain MiB | with it MiB | times as small |")
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for word in given.tasks:
        for option in given.option or OPTIONS:
            results.append(compare(word, option, given.pairs, place))
            print(row(results[-1]), flush=True)
            gc.collect()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
