"""The loop against a hand-written loop of the same work, one thread: microseconds a step, guards off and on.

    python -m benchmarks.loop_overhead [--pairs 15]

Both have the same network, fused optimizer, schedule, batches in the same order and augmentation; the hand-written
loop is what one would write for this one task: no seeds for dropout, no accumulation, no journal, and the losses read
once an epoch. Epochs alternate within a process, the hand-written one first in even pairs; an interval is a bootstrap
over the pairs. `small` is the article's network on batches of 8, whose step is nearly all overhead; `digits` and
`sentiment` are the default recipes. The limits are 20 us a step with guards off, and 2 % of the default recipes' step
with guards on; the exit code is 1 when an interval lies above its limit. Each pair's loops take as many epochs as make
`--steps` steps.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.serving import interval
from pipelines import batches, loop, tasks
from pipelines.examples import Draw
from pipelines.journal import Journal
from pipelines.place import Place
from pipelines.schedules import rate
from pipelines.steps import optimizer

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "small": ("classifier", {"arch": "article", "batch_size": 8, "augment": False, "dropout": 0.0}),
    "digits": ("classifier", {}),
    "sentiment": ("sentiment", {}),
}
LIMIT_US, LIMIT_SHARE = 20.0, 0.02
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Measures every case, guards off and on, and prints a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="which, separated by commas")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=200, help="least steps of each loop in a pair")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu where others use the machine too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| case | guards | by hand us a step | ours more, us (95 %) | more, of a step |\n|---|---|---|---|---|")
    over = False
    for name in arguments.cases.split(","):
        for guards in (False, True):
            hand, more = _measure(*CASES[name], guards, arguments)
            low, high = interval(more)
            share = mean(more) / median(hand)
            over |= low > LIMIT_SHARE * median(hand) and name != "small" if guards else low > LIMIT_US
            figures = f"{median(hand):.0f} | {mean(more):.1f} ({low:.1f} to {high:.1f}) | {share:.2%}"
            print(f"| {name} | {'on' if guards else 'off'} | {figures} |", flush=True)
    sys.exit(over)


def _measure(
    word: str, flags: dict[str, Any], guards: bool, arguments: argparse.Namespace
) -> tuple[list[float], list[float]]:
    """Alternates both loops; gives the hand-written loop's microseconds a step, and how many more ours took."""
    task, clock = tasks.find(word), CLOCKS[arguments.clock]
    config = task.config.Config(**{"epochs": 10_000, "guards": guards, **flags})
    data = task.data.load(config)
    with tempfile.TemporaryDirectory() as scratch:
        worker = loop.Worker(task, config, Path(scratch), Place(), Journal(Path(scratch)).append, data)
        hand = ByHand(task, config, data)
        epochs = -(-arguments.steps // hand.steps)
        found: dict[Any, list[float]] = {worker: [], hand: []}
        for pair in range(-1, arguments.pairs):
            for one in (worker, hand) if pair % 2 else (hand, worker):
                began = clock()
                for _ in range(epochs):
                    one.train_epoch()
                    one.progress.epoch, one.progress.batch = one.progress.epoch + 1, 0
                found[one].append((clock() - began) / (epochs * hand.steps) * 1e6)
    ours, theirs = found[worker][1:], found[hand][1:]  # the first pair warms up
    return theirs, [one - other for one, other in zip(ours, theirs, strict=True)]


class ByHand:
    """What one would write for one task."""

    def __init__(self, task: tasks.Task, config: Any, data: Any) -> None:
        """Makes the network and its optimizer."""
        self.config, self.train, self.loss = config, data.train, task.train.loss
        self.network = task.model.Model.create(config, data).network
        whole = [{"params": list(self.network.parameters())}]
        groups = task.train.groups(self.network, config) if hasattr(task.train, "groups") else whole
        self.optimizer = optimizer(config, groups)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.progress = loop.Progress()
        self.steps = -(-len(data.train) // config.batch_size)
        self.total = self.steps * config.epochs

    def train_epoch(self) -> None:
        """Takes the steps of an epoch."""
        config, made, progress = self.config, self.optimizer, self.progress
        self.network.train()
        draw, losses = Draw(config.seed, progress.epoch), []
        for index_B in batches.training(
            config.seed, progress.epoch, len(self.train), config.batch_size, self.train.lengths
        ):
            factor = rate(config.schedule, progress.step, self.total)
            for group, base in zip(made.param_groups, self.rates, strict=True):
                group["lr"] = base * factor
            made.zero_grad()
            loss = self.loss(self.network, self.train.batch(index_B, draw))
            loss.backward()
            made.step()
            losses.append(loss.detach())
            progress.step += 1
        torch.stack(losses).tolist()


if __name__ == "__main__":
    main()
