"""The training loop that one worker runs, in the order things happen; knows neither Ray nor MLflow.

The same losses come out of one process, of torchrun and of Ray Train, for the same seed, world size and
thread count: order, augmentation and dropout are functions of counters (examples.py, batches.py).
Shapes: B examples of a global batch, K steps of a logging window.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines import batches, checkpoint, collectives, identity, release, saving
from pipelines.evaluation import Evaluator
from pipelines.examples import Data, Draw, step_seed
from pipelines.place import Place
from pipelines.replica import replicate
from pipelines.saving import USUAL, Keeping
from pipelines.schedules import rate
from pipelines.settings import Settings
from pipelines.steps import Stepper
from pipelines.stopping import Stopped, never
from pipelines.tasks import Task

Emit = Callable[[dict[str, Any]], None]
WINDOW_SECONDS, WINDOW_STEPS = 0.5, 256


@dataclass
class Progress:
    """The counters of a run, all that decides what comes next."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = float("-inf")
    best_epoch: int = -1
    done: bool = False


class Diverged(ValueError):
    """The loss stopped being a finite number."""


def run(
    task: Task,
    config: Settings,
    run_dir: Path,
    place: Place,
    emit: Emit = lambda event: None,
    data: Data | None = None,
    checkpoint_steps: int = 0,
    stop: Callable[[], str] = never,
    keeping: Keeping = USUAL,
    test: bool = True,
) -> dict[str, float]:
    """Trains, evaluates and writes the model artifact of one run; goes on from its checkpoint if it has one.

    Every rank calls this with the same arguments. `emit` gets rank 0's events; `data` spares loading it again.
    Checkpoints are written after each epoch that is not too short, and every `checkpoint_steps` steps unless that is
    0. `stop` is asked at every window, on every rank, and gives the reason to stop or nothing; one rank's reason
    stops all, after a checkpoint. Without `test` it ends with the last epoch: the test split is not read and nothing
    is released, as a trial's should not be. Returns the test metrics. Raises Stopped, Diverged, and ValueError for bad
    data, another run's checkpoint, or one that cannot be written.
    """
    emit = emit if place.rank == 0 else lambda event: None
    if place.threads:
        torch.set_num_threads(place.threads)
    emit({"event": "loading"})
    data = data or task.data.load(config)
    worker = Worker(task, config, run_dir, place, emit, data, checkpoint_steps, stop, keeping)
    with worker.saver:
        worker.resume()
        emit({"event": "start", "step": worker.progress.step, "steps": worker.total_steps, **worker.describe()})
        while worker.progress.epoch < config.epochs and not worker.progress.done:
            worker.train_epoch()
            worker.finish_epoch()
        metrics = worker.finish() if test else {}
        worker.saver.finish()
    return metrics


class Worker:
    """One rank's model, data and counters."""

    def __init__(
        self,
        task: Task,
        config: Settings,
        run_dir: Path,
        place: Place,
        emit: Emit,
        data: Data,
        checkpoint_steps: int = 0,
        stop: Callable[[], str] = never,
        keeping: Keeping = USUAL,
    ) -> None:
        """Makes the model, the same on every rank, and moves data and model to the device."""
        self.task, self.config, self.run_dir, self.place, self.emit = task, config, run_dir, place, emit
        self.device = torch.device(place.device)
        self.data = data
        self.train, self.valid = data.train.to(self.device), data.valid.to(self.device)
        torch.manual_seed(step_seed(config.seed, -1, 0))
        self.model = task.model.Model.create(config, data).to(self.device)
        self.network: nn.Module = self.model.network
        groups = getattr(task.train, "groups", _one_group)(self.network, config)
        replica = replicate(self.network, config, place.world, getattr(task.train, "STATIC_GRAPH", True))
        self.stepper = Stepper(replica, task.train.loss, groups, config, self.device, place.rank, place.world)
        self.evaluator = Evaluator(task.train, self.network, place, self.stepper.autocast, config.batch_size)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.total_steps = -(-len(self.train) // config.batch_size) * config.epochs
        self.checkpoint_steps = checkpoint_steps
        self.window_steps = 1
        self.stop, self.stopping, self.may_save = stop, False, True
        self.about = identity.describe(task, config, data.digest, place)
        self.saver = saving.Saver(run_dir, place, emit, keeping)

    def describe(self) -> dict[str, Any]:
        """Says what is learned from what, for the journal."""
        count = sum(parameter.numel() for parameter in self.network.parameters())
        sizes = {"train": len(self.train), "valid": len(self.data.valid), "test": len(self.data.test)}
        digests = {"data_digest": self.data.digest, "code_digest": self.about["code"]}
        return {"data": self.data.name, **digests, "examples": sizes, "parameters": count}

    def train_epoch(self) -> None:
        """Takes the steps of an epoch that are still to take."""
        config, progress = self.config, self.progress
        plan = batches.training(config.seed, progress.epoch, len(self.train), config.batch_size, self.train.lengths)
        draw = Draw(config.seed, progress.epoch)
        self.stepper.network.train()
        losses: list[Tensor] = []
        started = time.perf_counter()
        for batch_B in plan[progress.batch :]:
            losses.append(self.stepper.step(self.train, batch_B, draw, progress.step, self.total_steps))
            progress.step, progress.batch = progress.step + 1, progress.batch + 1
            saving = self.checkpoint_steps and progress.step % self.checkpoint_steps == 0
            if len(losses) >= self.window_steps or progress.batch == len(plan) or saving:
                self._log(losses, time.perf_counter() - started)
                if self.stopping:
                    self.end_early()
                if saving and progress.batch < len(plan):
                    self.save()
                losses, started = [], time.perf_counter()

    def _log(self, losses: list[Tensor], seconds: float) -> None:
        """Reads the losses of a window, the one moment the step waits for the device, on all ranks alike."""
        said = [seconds, bool(self.stop()), self.saver.is_ready()]
        said_3 = torch.tensor(said, dtype=torch.float64, device=self.device)
        window_K3 = torch.cat([torch.stack(losses).double(), said_3])
        shared_K3 = collectives.sum_over_ranks(window_K3, self.place.world) / self.place.world
        *means, seconds, stopping, ready = shared_K3.tolist()
        self.stopping, self.may_save = stopping > 0, ready > 0
        self.window_steps = max(1, min(WINDOW_STEPS, round(len(losses) * WINDOW_SECONDS / max(seconds, 1e-6))))
        first = self.progress.step - len(means)
        lr = self.config.lr * rate(self.config.schedule, self.progress.step - 1, self.total_steps)
        speed = len(means) * self.config.batch_size / max(seconds, 1e-9)
        self.emit({"event": "steps", "first": first, "losses": means, "lr": lr, "examples_per_second": speed})
        self.saver.report()
        for number, mean in enumerate(means):
            if not abs(mean) < float("inf"):
                raise Diverged(
                    f"the loss is {mean} at step {first + number}; lower --lr (now {self.config.lr}) or set --clip 1"
                )

    def finish_epoch(self) -> None:
        """Evaluates on the validation split, keeps the best, decides about stopping, writes a checkpoint."""
        progress, config = self.progress, self.config
        collectives.average_buffers(self.network, self.place.world)
        metrics = self.task.train.metrics(self.evaluator.evaluate(self.valid))
        self.emit({"event": "epoch", "epoch": progress.epoch, "step": progress.step, "metrics": metrics})
        if metrics[self.task.train.PRIMARY] > progress.best:
            progress.best, progress.best_epoch = metrics[self.task.train.PRIMARY], progress.epoch
            if config.early_stopping:
                self.best = checkpoint.copy_to_cpu(self.network.state_dict())
        progress.done = 0 < config.early_stopping <= progress.epoch - progress.best_epoch
        progress.epoch, progress.batch = progress.epoch + 1, 0
        if progress.done or progress.epoch == config.epochs or self.may_save:
            self.save(metrics[self.task.train.PRIMARY])

    def state(self) -> dict[str, Any]:
        """Gives all that a run goes on from, the same on every rank; the tensors are the ones in use."""
        state = {"about": self.about, "network": self.network.state_dict(), "best": self.best}
        in_epoch = self.progress.batch > 0  # at an epoch's end they are alike
        buffers_RN = collectives.gather_buffers(self.network, self.place.world) if in_epoch else None
        return {**state, "buffers": buffers_RN, "progress": asdict(self.progress), **self.stepper.state()}

    def save(self, score: float | None = None) -> None:
        """Writes a checkpoint beside the training; all ranks take part, and rank 0 writes it."""
        self.saver.save(self.progress.step, self.state(), score)

    def end_early(self) -> None:
        """Writes a checkpoint between two steps and raises Stopped, on all ranks alike, when it is on the disk."""
        self.save()
        self.saver.wait()
        if self.place.world > 1:
            dist.barrier()  # the first to end may take the others with it
        self.saver.finish()
        stopped = Stopped(self.stop() or "another worker was asked to stop", self.progress.step)
        self.emit({"event": "stopped", "step": stopped.step, "reason": stopped.reason})
        raise stopped

    def resume(self) -> None:
        """Goes on from the run's newest whole checkpoint, if there is one."""
        found = self.saver.latest()
        if found is None:
            return
        state, problems = found
        notes = identity.check(state.get("about"), self.about, str(self.run_dir), self.saver.keeping.anyway)
        self.restore(state)
        self.emit({"event": "resume", "step": self.progress.step, "problems": problems, "inexact": notes})

    def restore(self, state: dict[str, Any]) -> None:
        """Makes weights, optimizer, counters and all else what they were when `state` was taken."""
        try:
            self.network.load_state_dict(state["network"])
            self.stepper.restore(state)
        except (RuntimeError, KeyError, ValueError) as problem:
            raise ValueError(
                f"the checkpoint in {str(self.run_dir)!r} does not fit the network: {problem}"
            ) from problem
        if (buffers_RN := state["buffers"]) is not None:
            alike = len(buffers_RN) == self.place.world
            collectives.set_buffers(self.network, buffers_RN[self.place.rank] if alike else buffers_RN.mean(0))
        self.best, self.progress = state["best"], Progress(**state["progress"])

    def finish(self) -> dict[str, float]:
        """Restores the best if stopping early, calibrates, reads the test split, once, and writes the artifact."""
        if self.best:
            self.network.load_state_dict(self.best)
        self.emit({"event": "testing"})
        sums, metrics = self.evaluator.test(self.model, self.valid, self.data.test.to(self.device))
        self.saver.finish()
        state = {**self.state(), "about": None, "metrics": metrics}
        if self.place.rank == 0:
            self.emit({"event": "state", "digest": checkpoint.digest(state)})
            metrics = release.write(
                self.task, self.config, self.model, self.data, self.run_dir, sums, metrics, self.emit
            )
        if self.place.world > 1:
            dist.barrier()
        return metrics


def _one_group(network: nn.Module, config: Settings) -> list[dict[str, Any]]:
    return [{"params": [parameter for parameter in network.parameters() if parameter.requires_grad]}]
