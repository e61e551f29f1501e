"""What our loop and its rivals have in common: network, loss, batches, optimizer, schedule, and the clock.

All take the same batches in the same order, indexed from tensors in memory: a data set with `__getitems__`, which torch
has for whole batches at once, and a DataLoader with a batch sampler, without worker processes.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from pipelines import batches, tasks
from pipelines.examples import Draw, Split, step_seed
from pipelines.schedules import rate
from pipelines.steps import optimizer


class Recipe:
    """One task, as the words on the command line say: its name, the epochs and the threads."""

    def __init__(self) -> None:
        """Loads the data and makes the network, the same for each seed."""
        word, epochs, threads = sys.argv[1:4]
        torch.set_num_threads(int(threads))
        self.task = tasks.find(word)
        self.config = self.task.config.Config(epochs=int(epochs))
        self.epochs = self.config.epochs
        self.data = self.task.data.load(self.config)
        torch.manual_seed(step_seed(self.config.seed, -1, 0))
        self.network: nn.Module = self.task.model.Model.create(self.config, self.data).network
        self.steps = -(-len(self.data.train) // self.config.batch_size) * self.epochs

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """Computes the task's training loss."""
        return self.task.train.loss(network, batch)

    def optimizer(self) -> torch.optim.Optimizer:
        """Makes the task's optimizer, with fused kernels."""
        whole = [{"params": list(self.network.parameters())}]
        groups = self.task.train.groups(self.network, self.config) if hasattr(self.task.train, "groups") else whole
        return optimizer(self.config, groups)

    def scheduler(self, made: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Makes the task's schedule as PyTorch has them."""
        schedule, steps = self.config.schedule, self.steps
        return torch.optim.lr_scheduler.LambdaLR(made, lambda step: rate(schedule, step, steps))

    def loader(self, clock: "Clock", shaped: Callable[[Any], Any] = lambda batch: batch) -> DataLoader[Any]:
        """Makes the loader of the training batches, each given its shape by `shaped`."""
        train = self.data.train
        plan = Plan(self.config.seed, len(train), self.config.batch_size, train.lengths, clock)
        return DataLoader(Batches(train, plan), batch_sampler=plan, collate_fn=shaped)

    def finish(self, clock: "Clock") -> None:
        """Prints what came of it: seconds of the epochs, peak memory, and the accuracy on the validation split."""
        seconds, cpu_seconds = time.perf_counter() - clock.began, time.process_time() - clock.began_cpu
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.network.eval()
        with torch.no_grad():
            sums = self.task.train.measure(
                self.network, self.data.valid.batch(torch.arange(len(self.data.valid)), None)
            )
        accuracy = self.task.train.metrics(sums)["accuracy"]
        found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_kb / 1024, "accuracy": accuracy}
        print(json.dumps(found))


class Clock:
    """Starts at the first batch."""

    began, began_cpu = 0.0, 0.0

    def start(self) -> None:
        """Starts, if it has not."""
        if not self.began:
            self.began, self.began_cpu = time.perf_counter(), time.process_time()


class Plan(Sampler[Any]):
    """Gives the batches of one epoch after the other, as indices."""

    def __init__(self, seed: int, count: int, batch_size: int, lengths: Tensor | None, clock: Clock) -> None:
        """Starts before the first epoch."""
        self.arguments, self.epoch, self.clock = (count, batch_size, lengths), -1, clock
        self.seed, self.length = seed, -(-count // batch_size)

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return self.length

    def __iter__(self) -> Iterator[Tensor]:
        """Goes on to the next epoch."""
        self.clock.start()
        self.epoch += 1
        return iter(batches.training(self.seed, self.epoch, *self.arguments))


class Batches(Dataset[Any]):
    """A split as a data set of whole batches."""

    def __init__(self, split: Split, plan: Plan) -> None:
        """Takes the plan too, since augmentation depends on the epoch."""
        self.split, self.plan = split, plan

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.split)

    def __getitem__(self, index: int) -> Any:
        """Gives one example as a batch."""
        return self.__getitems__(torch.tensor([index]))

    def __getitems__(self, index_B: Tensor) -> Any:
        """Gives the examples of a batch."""
        return self.split.batch(index_B, Draw(self.plan.seed, max(0, self.plan.epoch)))


def folder() -> Path:
    """The folder that a run may write to."""
    return Path(sys.argv[4])
