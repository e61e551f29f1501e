"""The training loop that one worker runs, in the order things happen; knows neither Ray nor MLflow.

The same losses come out of one process, of torchrun and of Ray Train, for the same seed, world size and
thread count: order, augmentation and dropout are functions of counters (examples.py, batches.py).
Shapes: B examples of a global batch, K steps of a logging window.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines import batches, checkpoint, collectives, identity, loading, memory, postmortem, release, sharding
from pipelines.assembly import assemble
from pipelines.evaluation import Evaluator
from pipelines.examples import Data, Draw, step_seed
from pipelines.guards import Guards, Skipped, attempt
from pipelines.numerics import as_configured
from pipelines.place import Place
from pipelines.postmortem import Diverged
from pipelines.saving import USUAL, Keeping, Saver
from pipelines.schedules import rate
from pipelines.settings import Settings
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


@as_configured
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

    Every rank calls this alike. `emit` gets rank 0's events; `data` spares loading it again. Checkpoints are written
    after each epoch that is not too short, and every `checkpoint_steps` steps. `stop` is asked at every window and
    gives the reason to stop or nothing; one rank's reason stops all. Without `test`, nothing is released.
    Returns the test metrics. Raises Stopped, Diverged, memory.Exhausted; ValueError for a bad task, data or checkpoint.
    """
    emit = emit if place.rank == 0 else lambda event: None
    task.check()
    if place.threads:
        torch.set_num_threads(place.threads)
    with loading.told(emit):
        examples: Data = data or task.data.load(config)
    begin = partial(Worker, task, config, run_dir, place, emit, examples, checkpoint_steps, stop, keeping)
    worker = begin()
    with worker.saver, memory.noted(run_dir):
        worker.resume()
        emit({"event": "start", "step": worker.progress.step, "steps": worker.total_steps, **worker.describe()})
        while worker.progress.epoch < config.epochs and not worker.progress.done:
            if amendments := attempt(worker.train_epoch) or attempt(worker.finish_epoch):
                worker = begin(worker.release(amendments[-1].step))
                worker.guards.amendments = amendments
                worker.resume()
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
        saver: Saver | None = None,
    ) -> None:
        """Makes the model, the same on every rank, and moves data and model to the device."""
        self.task, self.config, self.run_dir, self.place, self.emit = task, config, run_dir, place, emit
        self.device, self.data = torch.device(place.device), data
        self.train, self.valid = data.train.to(self.device), data.valid.to(self.device)
        torch.manual_seed(step_seed(config.seed, -1, 0))
        self.make = partial(task.model.Model.create, config, data)
        self.model = self.make()
        self.network: nn.Module = self.model.network
        self.total_steps = -(-len(self.train) // config.batch_size) * config.epochs
        self.stepper = assemble(task, config, self.model, self.train, place, run_dir, self.total_steps, emit)
        self.pieces = self.stepper.pieces
        self.guards = Guards(config, self.network, emit, self.diverged, place)
        pieces = memory.recorded(run_dir, memory.EVALUATION, place)
        autocast, size = self.stepper.autocast, config.batch_size
        self.evaluator = Evaluator(task.train, self.network, place, autocast, size, pieces, emit)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.checkpoint_steps = checkpoint_steps
        self.window_steps = 1
        self.stop, self.stopping, self.may_save = stop, False, True
        self.about = identity.describe(task, config, data.digest, place)
        self.saver = saver or Saver(run_dir, place, emit, keeping)

    def describe(self) -> dict[str, Any]:
        """Says what is learned from what, for the journal."""
        count = sum(parameter.numel() for parameter in self.network.parameters())
        sizes = {"train": len(self.train), "valid": len(self.data.valid), "test": len(self.data.test)}
        digests = {"data_digest": self.data.digest, "code_digest": self.about["code"]}
        return {"data": self.data.name, **digests, "examples": sizes, "parameters": count}

    def train_epoch(self) -> None:
        """Takes the steps of an epoch that are still to take. Raises RollBack and Diverged as the guards do."""
        config, progress = self.config, self.progress
        plan = self._plan(progress.epoch)
        draw = Draw(config.seed, progress.epoch)
        self.stepper.network.train()
        losses: list[Tensor] = []
        started = time.perf_counter()
        for batch_B in plan[progress.batch :]:
            losses.append(self._step(batch_B, draw))
            progress.step, progress.batch = progress.step + 1, progress.batch + 1
            ended = progress.batch == len(plan)
            saving = bool(self.checkpoint_steps) and progress.step % self.checkpoint_steps == 0
            deciding = ended or saving or (config.guards and progress.step % config.guard_window == 0)
            if deciding or len(losses) >= self.window_steps:
                self._log(losses, time.perf_counter() - started)
                if deciding and config.guards:
                    self.stepper.undo_halvings(self.guards.check(progress.step, self.total_steps))
                good = saving and not ended and self.guards.due(progress.step)
                if self.stopping:
                    self.end_early()
                if good:
                    self.save()
                losses, started = [], time.perf_counter()

    def _plan(self, epoch: int) -> list[Tensor]:
        count, lengths = len(self.train), self.train.lengths
        return batches.training(self.config.seed, epoch, count, self.config.batch_size, lengths, self.device)

    def _step(self, batch_B: Tensor, draw: Draw) -> Tensor:
        if self.guards.leaves_out(self.progress.step):
            return self.stepper.leave_out()
        self.stepper.factor = self.guards.ladder.factor
        return self.stepper.step(self.train, batch_B, draw, self.progress.step, self.total_steps)

    def _log(self, losses: list[Tensor], seconds: float) -> None:
        """Reads the numbers of a window, the one moment the step waits for the device, on all ranks alike."""
        count, pieces = len(losses), self.stepper.pieces
        said = [seconds, bool(self.stop()), self.saver.is_ready(), pieces, pieces**2]
        said_5 = torch.tensor(said, dtype=torch.float64, device=self.device)
        window = torch.cat([torch.stack(losses + self.stepper.take_norms()).double(), said_5])
        window = collectives.sum_over_ranks(window, self.place.world) / self.place.world
        *read, seconds, stopping, ready, mean, square = window.tolist()
        means, norms = read[:count], read[count:]
        self.stopping, self.may_save = stopping > 0, ready > 0
        self.window_steps = max(1, min(WINDOW_STEPS, round(count * WINDOW_SECONDS / max(seconds, 1e-6))))
        first = self.progress.step - count
        schedule, warm_up, cool_down = self.config.schedule, self.config.warm_up, self.config.cool_down
        factor = rate(schedule, self.progress.step - 1, self.total_steps, warm_up, cool_down)
        lr = self.config.lr * factor * self.stepper.factor
        speed = count * self.config.batch_size / max(seconds, 1e-9)
        self.emit({"event": "steps", "first": first, "losses": means, "lr": lr, "examples_per_second": speed})
        self.saver.report()
        if square != mean**2 or pieces != self.pieces:
            self.pieces = memory.agree(self.stepper, self.place, self.emit, self.progress.step)
        self.guards.read(first, means, norms)

    def diverged(self, last: Skipped) -> Diverged:
        """Says what became of a step that was not finite, the last that was skipped."""
        epoch, batch = divmod(last.step, self.total_steps // self.config.epochs)
        step = self._plan(epoch)[batch], Draw(self.config.seed, epoch), last.step
        if sharding.is_sharded(self.network):
            whole = sharding.whole_model(self.model, self.make, self.place.rank).network
            found = postmortem.examine_all(self.stepper, whole, self.data.train, *step)
        else:
            found = postmortem.examine(self.stepper, self.network, self.train, *step)
        case = postmortem.Case(last, self.config, self.guards.ladder, epoch, batch)
        return postmortem.report(case, found, self.run_dir, self.place)

    def finish_epoch(self) -> None:
        """Evaluates on the validation split, keeps the best, decides with the guards about stopping, and saves."""
        progress, config = self.progress, self.config
        collectives.average_buffers(self.network, self.place.world)
        with self.stepper.averaged():
            metrics = self.task.train.metrics(self.evaluator.evaluate(self.valid))
            self.emit({"event": "epoch", "epoch": progress.epoch, "step": progress.step, "metrics": metrics})
            if metrics[self.task.train.PRIMARY] > progress.best:
                progress.best, progress.best_epoch = metrics[self.task.train.PRIMARY], progress.epoch
                if config.early_stopping:
                    self.best = checkpoint.copy_to_cpu(sharding.network_state(self.network))
        progress.done = 0 < config.early_stopping <= progress.epoch - progress.best_epoch
        if progress.done and config.guards:
            self.guards.conclude(progress.step)
        progress.epoch, progress.batch = progress.epoch + 1, 0
        good = self.guards.due(progress.step)
        if progress.done or progress.epoch == config.epochs or (good and self.may_save):
            self.save(metrics[self.task.train.PRIMARY])

    def state(self) -> dict[str, Any]:
        """Gives all that a run goes on from, the same on every rank; the tensors are the ones in use."""
        state = {"about": self.about, "network": sharding.network_state(self.network), "best": self.best}
        in_epoch = self.progress.batch > 0  # at an epoch's end they are alike
        buffers_RN = collectives.gather_buffers(self.network, self.place.world) if in_epoch else None
        counters = {"progress": asdict(self.progress), "guards": self.guards.state()}
        pieces = {memory.EVALUATION: self.evaluator.pieces}
        return {**state, "buffers": buffers_RN, **counters, **pieces, **self.stepper.state()}

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
        found = self.saver.latest(sharding.WHOLE if sharding.is_sharded(self.network) else ())
        if found is None:
            return
        state, problems = found
        notes = identity.check(state.get("about"), self.about, str(self.run_dir), self.saver.keeping.anyway)
        self.restore(state)
        self.emit({"event": "resume", "step": self.progress.step, "problems": problems, "inexact": notes})

    def restore(self, state: dict[str, Any]) -> None:
        """Makes weights, optimizer, counters and all else what they were when `state` was taken."""
        try:
            sharding.load_network(self.network, state["network"])
            self.stepper.restore(state)
        except (RuntimeError, KeyError, ValueError) as problem:
            where = str(self.run_dir)
            raise ValueError(f"the checkpoint in {where!r} does not fit the network: {problem}") from problem
        if (buffers_RN := state["buffers"]) is not None:
            own_N = collectives.own_numbers(buffers_RN, self.place.rank, self.place.world)
            collectives.set_numbers(collectives.statistics(self.network), own_N)
        self.best, self.progress = state["best"], Progress(**state["progress"])
        self.pieces = self.stepper.pieces
        self.evaluator.pieces = max(self.evaluator.pieces, state.get(memory.EVALUATION, 1))
        if "guards" in state:
            self.guards.restore(state["guards"], self.progress.step)

    def release(self, step: int) -> Saver:
        """Frees memory for another worker that goes on from a step, and deletes the checkpoints of later ones."""
        saver = self.saver
        saver.forget_after(step)
        vars(self).clear()
        return saver

    def finish(self) -> dict[str, float]:
        """Restores the best if stopping early, calibrates, reads the test split, once, and writes the artifact."""
        with self.stepper.averaged():
            if self.config.early_stopping and self.progress.best_epoch >= 0:
                sharding.load_network(self.network, self.best)
            self.emit({"event": "testing"})
            sums, metrics, columns = self.evaluator.test(self.model, self.valid, self.data.test.to(self.device))
            self.saver.finish()
            state = {**self.state(), "about": None, "metrics": metrics}
            model = sharding.whole_model(self.model, self.make, self.place.rank)
            if self.place.rank == 0:
                task, config, data, digest = self.task, self.config, self.data, checkpoint.digest(state)
                metrics = release.write(
                    task, config, model, data, self.run_dir, digest, sums, columns, metrics, self.emit
                )
        if self.place.world > 1:
            dist.barrier()
        return metrics
