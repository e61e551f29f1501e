"""Why a step was not finite: the step taken again with hooks, the first module named, the examples found.

Shapes: B examples of a batch.
"""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines import collectives, numerics
from pipelines.examples import Draw, Split
from pipelines.guards import Ladder, Skipped
from pipelines.nested import is_broken, is_finite, tensors
from pipelines.place import Place
from pipelines.settings import Settings
from pipelines.steps import Stepper, seed_generators

NAME = "report.json"
MOST_EXAMPLES = 8
"""So many examples are named."""


class Diverged(ValueError):
    """The loss or its gradient stopped being finite, and nothing helped."""


@dataclass
class Finding:
    """What one rank found in its share of a step."""

    module: str = ""
    """The first module with a value that is not finite; `loss` for the loss itself, `batch` for its input."""
    part: str = ""
    """What of it: its output or its gradient."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """The index in the training split, and what the batch held for it, of each example that alone brings it about."""


def examine(stepper: Stepper, network: nn.Module, split: Split, batch_B: Tensor, draw: Draw, step: int) -> Finding:
    """Takes this rank's share of a step again, on the bare network, and names what first is not finite."""
    network.train()
    for number, (own_B, weight) in enumerate(stepper.micro_batches(batch_B)):
        if not weight:
            continue
        seed_generators(stepper.device, stepper.seed(step, number))
        batch = split.batch(own_B, draw)
        watch = Watch(network)
        if not is_finite(batch):
            watch.found = ("batch", "input")
        else:
            with watch.watching(), stepper.autocast():
                loss = stepper.loss(network, batch).float()
            if not watch.found and not is_finite(loss):
                watch.found = watch.masked or ("loss", "output")
            if not watch.found:
                loss.backward()
                watch.look_at_gradients()
        if watch.found:
            return Finding(*watch.found, _culprits(stepper, network, split, own_B, draw))
    return Finding()


def examine_all(stepper: Stepper, network: nn.Module, split: Split, batch_B: Tensor, draw: Draw, step: int) -> Finding:
    """Takes the shares of all ranks again, one after the other, on rank 0's whole network and a split on the CPU.

    For a network in shares: ranks that look each at its own batch would wait for each other's weights.
    """
    if stepper.rank:
        return Finding()
    twin, findings = copy.copy(stepper), []
    twin.device = torch.device("cpu")
    twin.autocast = numerics.autocast(stepper.config, twin.device)
    for twin.rank in range(stepper.world):
        findings.append(examine(twin, network, split, batch_B.cpu(), draw, step))
    return _join(findings)


@dataclass
class Call:
    """One call of a module: which values and gradients were finite."""

    name: str
    module: nn.Module
    output: bool = True
    input: bool = True


class Watch:
    """Follows the calls of every module and the gradients of what goes in and comes out."""

    def __init__(self, network: nn.Module) -> None:
        """Forgets the gradients that are there."""
        network.zero_grad(set_to_none=True)
        self.network = network
        self.calls: list[Call] = []
        self.found: tuple[str, str] | None = None
        self.masked: tuple[str, str] | None = None
        """The first module that gave minus infinity, which is to blame only if nothing else is."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks into every module while the block runs."""
        hooks = [
            module.register_forward_hook(partial(self._after, name or type(module).__name__))
            for name, module in self.network.named_modules()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _after(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        call = Call(name, module)
        self.calls.append(call)
        if not self.found and is_broken(output):
            self.found = (name, "output")
        elif not self.masked and not is_finite(output):
            self.masked = (name, "output")
        for tensor in tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(partial(_note, call, "output"))
        for tensor in tensors(inputs):
            if tensor.requires_grad:
                tensor.register_hook(partial(_note, call, "input"))

    def look_at_gradients(self) -> None:
        """Names the innermost module that was given a finite gradient and made another of it, the last called."""
        guilty = [call for call in self.calls if call.output and not (call.input and _sound(call.module))]
        names = {call.name for call in guilty}
        inner = [call for call in guilty if not any(name.startswith(f"{call.name}.") for name in names)]
        if inner:
            self.found = (inner[-1].name, "gradient")
        elif not all(call.output for call in self.calls):
            self.found = ("loss", "gradient")


def _note(call: Call, side: str, gradient: Tensor) -> None:
    if not gradient.isfinite().all():
        setattr(call, side, False)


def _sound(module: nn.Module) -> bool:
    return all(is_finite(parameter.grad) for parameter in module.parameters(recurse=False))


def _culprits(stepper: Stepper, network: nn.Module, split: Split, own_B: Tensor, draw: Draw) -> list[dict[str, Any]]:
    """Finds examples that are not finite each for itself, by halving; dropout and batch statistics are off."""
    network.eval()
    found: list[dict[str, Any]] = []
    waiting = [own_B]
    while waiting and len(found) < MOST_EXAMPLES:
        some_B = waiting.pop()
        if _harmless(stepper, network, split, some_B, draw):
            continue
        if len(some_B) == 1:
            found.append({"index": int(some_B), "holds": _describe(split.batch(some_B, draw))})
        else:
            waiting += reversed(some_B.tensor_split(2))
    return found


def _harmless(stepper: Stepper, network: nn.Module, split: Split, some_B: Tensor, draw: Draw) -> bool:
    network.zero_grad(set_to_none=True)
    batch = split.batch(some_B, draw)
    with stepper.autocast():
        loss = stepper.loss(network, batch).float()
    if not (is_finite(batch) and is_finite(loss)):
        return False
    loss.backward()
    return all(is_finite(parameter.grad) for parameter in network.parameters())


def _describe(batch: Any) -> list[dict[str, Any]]:
    """Says what the tensors of a batch hold."""
    return [_what(tensor.detach()) for tensor in tensors(batch)]


def _what(tensor: Tensor) -> dict[str, Any]:
    finite = tensor[tensor.isfinite()]
    bounds = [float(finite.min()), float(finite.max())] if finite.numel() else []
    said = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch."), "between": bounds}
    return said | {"not_finite": tensor.numel() - finite.numel()}


@dataclass
class Case:
    """A step that stopped a run."""

    last: Skipped
    config: Settings
    ladder: Ladder
    epoch: int
    batch: int
    """The number of its batch within the epoch."""


def report(case: Case, own: Finding, run_dir: Path, place: Place) -> Diverged:
    """Joins what all ranks found, writes the report of the run, and puts it in a sentence."""
    texts = collectives.gather_texts(json.dumps(asdict(own)), place.world, torch.device(place.device))
    found = _join([Finding(**json.loads(text)) for text in texts])
    said = _sentence(case, found)
    if place.rank == 0:
        facts = {"sentence": said, **asdict(case.last), "epoch": case.epoch, "batch": case.batch}
        facts |= {**asdict(found), "lr": case.config.lr, "ladder": asdict(case.ladder)}
        (run_dir / NAME).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return Diverged(said)


def _join(findings: list[Finding]) -> Finding:
    """Takes the module of the first rank that found one, and the examples of all."""
    guilty = [finding for finding in findings if finding.module]
    if not guilty:
        return findings[0]
    examples = sorted((one for finding in guilty for one in finding.examples), key=lambda one: one["index"])
    return Finding(guilty[0].module, guilty[0].part, examples)


def _sentence(case: Case, found: Finding) -> str:
    """Says what happened, what to do, what was tried and where it came from."""
    last, ladder = case.last, case.ladder
    what = f"the loss is {last.loss}" if not math.isfinite(last.loss) else f"the gradient's norm is {last.norm}"
    do = f"lower --lr (now {case.config.lr}) or set --clip 1"
    tried = ""
    if case.config.guards:
        tried = f"; skipping steps, {ladder.factor:g} of the rate and {ladder.rollbacks} roll back(s) did not help"
    return f"{what} at step {last.step}; {do}{tried}; {_cause(found)}; {NAME} in the run folder says more"


def _cause(found: Finding) -> str:
    if not found.module:
        return "the step taken again was finite"
    where = {"batch": "the batch itself", "loss": "the loss"}.get(found.module, f"module {found.module!r}")
    part = "" if found.module == "batch" else f" (its {found.part})"
    indices = ", ".join(str(one["index"]) for one in found.examples)
    more = " and perhaps more" if len(found.examples) >= MOST_EXAMPLES else ""
    of = f", with training examples {indices}{more}" if indices else ", with no single example of the batch"
    return f"the first value that is not finite is in {where}{part}{of}"
