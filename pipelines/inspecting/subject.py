"""What is inspected: a network with its weights, and the one batch of its step, drawn from the run's counters.

Shapes: B examples of the batch, N examples of a split.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines import batches, checkpoint, identity
from pipelines.examples import Data, Draw, Split, step_seed
from pipelines.place import Place
from pipelines.settings import Settings
from pipelines.tasks import Task


@dataclass
class Subject:
    """A network in training, the batch of one step, and the numbers that decide what is random in it."""

    task: Task
    config: Settings
    data: Data
    model: Any
    device: torch.device
    split: Split
    index: Tensor
    """The batch's examples in the split, int64 [B] on the CPU."""
    names: list[str]
    """The same examples as their owner knows them."""
    epoch: int = 0
    number: int = 0
    """The batch among those of the epoch."""
    step: int = 0
    origin: str = "fresh weights"
    """Where the weights are from."""
    rows_of: str = ""
    """The file that the batch was made of, if it is none of the run's."""
    notes: list[str] = field(default_factory=list)

    @property
    def network(self) -> nn.Module:
        """The network that learns."""
        return self.model.network

    def batch(self, index_B: Tensor | None = None) -> Any:
        """Takes examples as the step would, by default all of the batch."""
        index_B = self.index if index_B is None else index_B
        return self.split.batch(index_B.to(self.device), Draw(self.config.seed, self.epoch))

    @property
    def half(self) -> torch.dtype:
        """The lower precision of the settings, or that which they would take."""
        return torch.float16 if self.config.amp == "fp16" else torch.bfloat16

    @property
    def is_amp(self) -> bool:
        """Whether the settings let the forward pass run in lower precision."""
        return self.config.amp not in (False, "no")

    def place(self) -> str:
        """Says which step it is, in words."""
        if self.rows_of:
            return f"{len(self.names)} rows of {self.rows_of}, as step {self.step} would take them"
        return f"{self.step} (batch {self.number} of epoch {self.epoch}), {len(self.names)} examples"

    def plain_config(self) -> Settings:
        """Gives the settings without what changes how a step is computed."""
        return replace(self.config, amp=False, compile=False, accumulate=1)

    def autocast(self) -> AbstractContextManager[Any]:
        """Gives the numbers in which the settings let the forward pass run."""
        if not self.is_amp:
            return nullcontext()
        return torch.autocast(self.device.type, self.half)

    def loss(self, index_B: Tensor | None = None) -> Tensor:
        """Computes the loss of some examples, a scalar, with the dropout that the step draws on rank 0."""
        return self.loss_of(self.batch(index_B))

    def loss_of(self, batch: Any) -> Tensor:
        """Computes the loss of a batch that was taken before."""
        torch.manual_seed(step_seed(self.config.seed, self.step * self.config.accumulate, 0))
        with self.autocast():
            return self.task.train.loss(self.network, batch)

    @contextmanager
    def rehearsal(self) -> Iterator[nn.Module]:
        """Gives the network ready to learn; afterwards its buffers are as before and its gradients gone."""
        kept = [buffer.clone() for buffer in self.network.buffers()]
        self.network.train()
        self.network.zero_grad(set_to_none=True)
        try:
            yield self.network
        finally:
            self.network.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, before in zip(self.network.buffers(), kept, strict=True):
                    buffer.copy_(before)

    def following(self, count: int) -> "list[Subject]":
        """Gives the next steps of the run, with today's weights; this one not included."""
        found: list[Subject] = []
        split, epoch, number, step = self.data.train.to(self.device), self.epoch, self.number + 1, self.step + 1
        while len(found) < count:
            for batch_B in _plan(self.config, self.data.train, epoch)[number : number + count - len(found)]:
                index_B = _first_part(batch_B, self.config)
                place = {"epoch": epoch, "number": number, "step": step}
                names = name_examples(index_B)
                found.append(replace(self, split=split, index=index_B, names=names, rows_of="", **place))
                number, step = number + 1, step + 1
            epoch, number = epoch + 1, 0
        return found

    def calm(self) -> nn.Module:
        """Makes the same network, same weights, that drops nothing out, so that two computations can be compared."""
        quiet = {name: 0.0 for name in vars(self.config) if name.endswith("dropout")}
        model = self.task.model.Model.create(replace(self.config, **quiet), self.data).to(self.device)
        model.network.load_state_dict(self.network.state_dict())
        for module in model.network.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
        return model.network.train()


def prepare(task: Task, config: Settings, data: Data, place: Place, run_dir: Path | None = None) -> Subject:
    """Takes the first step of a new run, or the next one of a run that has a checkpoint.

    Raises ValueError when the run has no checkpoint, or one of another task; other code or data becomes a note.
    """
    torch.manual_seed(step_seed(config.seed, -1, 0))
    model = task.model.Model.create(config, data).to(torch.device(place.device))
    subject = Subject(task, config, data, model, torch.device(place.device), data.train, torch.zeros(0), [])
    if run_dir is not None:
        _restore(subject, run_dir, place)
    plan = _plan(config, data.train, subject.epoch)
    if subject.number >= len(plan):
        subject.epoch, subject.number = subject.epoch + 1, 0
        plan = _plan(config, data.train, subject.epoch)
    subject.index = _first_part(plan[subject.number], config)
    subject.names = name_examples(subject.index)
    subject.split = data.train.to(torch.device(place.device))
    if len(subject.index) < len(plan[subject.number]):
        subject.notes.append(
            f"of the step's {len(plan[subject.number])} examples this is the first of --accumulate "
            f"{config.accumulate} parts"
        )
    return subject


def name_examples(index_B: Tensor) -> list[str]:
    """Names examples of the training split, as batches of a run are made of them."""
    return [f"training example {at}" for at in index_B.tolist()]


def _restore(subject: Subject, run_dir: Path, place: Place) -> None:
    found = checkpoint.latest(run_dir / "checkpoints")
    if found is None:
        raise ValueError(f"the run in {str(run_dir)!r} has no checkpoint yet; leave out --run to look at fresh weights")
    state, problems = found
    now = identity.describe(subject.task, subject.config, subject.data.digest, place)
    notes = identity.check(state.get("about"), now, str(run_dir), anyway=True)
    subject.notes += [*problems, *(f"the checkpoint {note}" for note in notes)]
    try:
        subject.network.load_state_dict(state["network"])
    except RuntimeError as problem:
        raise ValueError(f"the checkpoint in {str(run_dir)!r} does not fit the network: {problem}") from problem
    progress = state["progress"]
    subject.epoch, subject.number, subject.step = progress["epoch"], progress["batch"], progress["step"]
    subject.origin = f"the checkpoint after step {progress['step']} of {run_dir}"
    if progress["epoch"] >= subject.config.epochs or progress.get("done"):
        subject.notes.append("the run is complete; this is the step that it would take if it went on")


def _plan(config: Settings, split: Split, epoch: int) -> list[Tensor]:
    return batches.training(config.seed, epoch, len(split), config.batch_size, split.lengths)


def _first_part(batch_B: Tensor, config: Settings) -> Tensor:
    return batches.share(batch_B, config.accumulate, 0, 1)[0][0]
