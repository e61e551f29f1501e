"""The same step computed in other ways: again, in bfloat16, by two ranks under DDP, compiled; module by module.

Dropout is off in all of them, so that what differs is the computation. Shapes: B examples of the batch.
"""

import copy
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipelines import batches, compiling
from pipelines.examples import step_seed
from pipelines.inspecting.peers import WORLD, Peers, Work
from pipelines.inspecting.subject import Subject
from pipelines.inspecting.taps import Computed, Tap, compute
from pipelines.inspecting.trail import LOSS, NETWORK

Way = Literal["amp", "ddp", "compile"]
TOLERANCES = {"again": 0.0, "amp": 5e-2, "ddp": 1e-4, "compile": 1e-3}
"""Largest difference that is no news, relative to the largest value that the module gives in float32."""
GRADIENT_SLACK = 5.0
"""How many times the tolerance a gradient may differ: it has passed through all modules, and back."""
TITLES = {
    "again": "eager, once more with another seed",
    "amp": "eager in lower precision",
    "ddp": "two processes under DDP, half the examples each",
    "compile": "torch.compile",
}
DDP_SECONDS, COMPILE_SECONDS = 60.0, 120.0
"""Longest time that is waited for; what takes longer is left out of the report."""


@dataclass
class Difference:
    """How far one module's output, or one parameter's gradient, is from the eager one's."""

    name: str
    call: int
    absolute: float
    relative: float
    """To the largest absolute value of the eager one."""


@dataclass
class Comparison:
    """One other way to compute the step."""

    way: str
    tolerance: float
    losses: tuple[float, float] | None = None
    """The eager one's and this one's."""
    modules: list[Difference] = field(default_factory=list)
    """The worst call of each module, in the order of the forward pass."""
    gradients: list[Difference] = field(default_factory=list)
    """By parameter, the last of the network first, as the backward pass comes to them."""
    first: str = ""
    """The first module that differs beyond the tolerance, in words; empty where none does."""
    kind: str = ""
    """That module's class."""
    note: str = ""
    """What else is to be said, such as why it could not be computed."""
    seconds: float = 0.0

    @property
    def title(self) -> str:
        """The way in words."""
        return TITLES[self.way]


def compare(subject: Subject, ways: tuple[Way, ...], peers: Peers | None) -> list[Comparison]:
    """Computes the step in other ways than eagerly in float32; `peers` computes those that need other processes."""
    network = subject.calm()
    eager = _eager(subject, network)
    kinds = {name or NETWORK: type(module).__name__ for name, module in network.named_modules()}
    found = [_Judge("again", eager, kinds, set()).judge(_eager(subject, network, seed=1))]
    random_modules = {entry.name for entry in found[0].modules if entry.relative > 0}
    if random_modules:
        found[0].note = "these draw random numbers, so what they give is not compared below"
    makers: dict[str, Callable[[], tuple[Computed, str]]] = {
        "amp": lambda: (_eager(subject, network, autocast=True), ""),
        "ddp": lambda: (_ranked(subject, network, peers), ""),
        "compile": lambda: _compiled(subject, network, peers),
    }
    for way in ways:
        judge, began = _Judge(way, eager, kinds, random_modules), time.monotonic()
        try:
            computed, note = makers[way]()
            entry = judge.judge(computed)
            entry.note = note
        except RuntimeError as problem:
            entry = Comparison(way, TOLERANCES[way], note=f"could not be computed: {problem}")
        entry.seconds = time.monotonic() - began
        found.append(entry)
    return found


def _eager(subject: Subject, network: nn.Module, autocast: bool = False, seed: int = 0) -> Computed:
    twin = copy.deepcopy(network)  # so that buffers stay as they are
    torch.manual_seed(step_seed(subject.config.seed + seed, subject.step, 0))
    with torch.autocast(subject.device.type, subject.half, enabled=autocast):
        return compute(twin, twin, subject.task.train.loss, subject.batch())


def _ranked(subject: Subject, network: nn.Module, peers: Peers | None) -> Computed:
    assert peers is not None
    works = []
    static = getattr(subject.task.train, "STATIC_GRAPH", True)
    for rank in range(WORLD):
        own_B, weight = batches.share(subject.index, 1, rank, WORLD)[0]
        batch = _to_cpu(subject.batch(own_B))
        config = subject.plain_config()
        works.append(Work(copy.deepcopy(network).cpu(), batch, subject.task.train.loss, config, "cpu", static, weight))
    return _joined(peers.ranked(works, DDP_SECONDS), len(subject.index))


def _compiled(subject: Subject, network: nn.Module, peers: Peers | None) -> tuple[Computed, str]:
    assert peers is not None
    if subject.device.type == "cpu" and not compiling.has_compiler():
        raise RuntimeError("torch.compile needs a C++ compiler, and there is none")
    work = Work(network, subject.batch(), subject.task.train.loss, subject.config, str(subject.device), True)
    computed, breaks = peers.compiled(work, COMPILE_SECONDS)
    reasons = "; ".join(" ".join(reason.split())[:120] for reason in breaks)
    return computed, f"{sum(breaks.values())} graph breaks" + (f": {reasons}" if reasons else "")


def _to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_to_cpu, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_to_cpu, value))
    return {key: _to_cpu(item) for key, item in value.items()} if isinstance(value, dict) else value


def _joined(parts: list[Computed], count: int) -> Computed:
    """Puts the ranks' rows in the order of the whole batch, B rows; DDP has made their gradients the same."""
    taps = []
    if [(tap.module, tap.given) for tap in parts[0].taps] == [(tap.module, tap.given) for tap in parts[1].taps]:
        for one, other in zip(parts[0].taps, parts[1].taps, strict=True):
            pairs = zip(one.tensors, other.tensors, strict=False)
            taps.append(Tap(one.module, one.given, [_woven(*pair, count) for pair in pairs]))
    return Computed(taps, parts[0].gradients, sum(part.loss for part in parts) / len(parts))


def _woven(one: Tensor, other: Tensor, count: int) -> Tensor:
    """Gives the ranks' rows in turn; nothing where the first side is not the examples."""
    if not one.dim() or len(one) + len(other) != count:
        return torch.empty(0)
    sides = [min(pair) for pair in zip(one.shape[1:], other.shape[1:], strict=True)]
    window = tuple(slice(side) for side in sides)
    whole = one.new_empty(count, *sides)
    whole[0::WORLD], whole[1::WORLD] = one[(slice(None), *window)], other[(slice(None), *window)]
    return whole


class _Judge:
    """Compares one computation with the eager one."""

    def __init__(self, way: str, eager: Computed, kinds: dict[str, str], random: set[str]) -> None:
        self.way, self.eager, self.kinds, self.random = way, eager, kinds, random
        self.tolerance = TOLERANCES[way]

    def judge(self, other: Computed) -> Comparison:
        found = Comparison(self.way, self.tolerance, (self.eager.loss, other.loss))
        worst: dict[str, Difference] = {}
        calls: Counter[tuple[str, bool]] = Counter()
        open_calls: list[str] = []
        for ours, theirs in zip(self.eager.taps, other.taps, strict=False):
            if (ours.module, ours.given) != (theirs.module, theirs.given):
                found.first = found.first or f"{theirs.module} is called where eager calls {ours.module}"
                break
            calls[ours.module, ours.given] += 1
            entry = _difference(ours.module, calls[ours.module, ours.given], ours.tensors, theirs.tensors)
            owner = (open_calls[-1] if open_calls else LOSS) if ours.given else ours.module
            if not found.first and entry.relative > self.tolerance and owner not in self.random:
                code = ", in its own code before it calls " + ours.module if ours.given else ""
                found.first, found.kind = f"{owner}, call {entry.call}{code}", self.kinds.get(owner, "")
            open_calls = [*open_calls, ours.module] if ours.given else open_calls[:-1]
            if not ours.given and entry.relative >= worst.get(ours.module, entry).relative:
                worst[ours.module] = entry
        found.modules = list(worst.values())
        self._gradients(found, other)
        return found

    def _gradients(self, found: Comparison, other: Computed) -> None:
        for name in reversed(self.eager.gradients):
            theirs = [other.gradients[name]] if name in other.gradients else []
            found.gradients.append(_difference(name, 1, [self.eager.gradients[name]], theirs))
        if found.first or self.random:
            return
        scale = max((float(tensor.abs().amax()) for tensor in self.eager.gradients.values()), default=0.0)
        slack = GRADIENT_SLACK * self.tolerance
        for entry in found.gradients:
            if entry.relative > slack and entry.absolute > slack * scale:
                module = entry.name.rpartition(".")[0] or NETWORK
                found.first = f"{module}, in the backward pass (gradient of {entry.name})"
                return


def _difference(name: str, call: int, ours: list[Tensor], theirs: list[Tensor]) -> Difference:
    """Finds the largest difference; of tensors padded to other sizes, within what they share."""
    absolute = relative = 0.0
    for one, other in zip(ours, theirs, strict=False):
        if not one.numel() or not other.numel() or one.dim() != other.dim():
            continue
        window = tuple(slice(min(pair)) for pair in zip(one.shape, other.shape, strict=True))
        one, other = one[window].double(), other[window].double()
        same = (one == other) | (one.isnan() & other.isnan())
        apart = torch.where(same, torch.zeros_like(one), (one - other).abs()).nan_to_num(nan=float("inf"))
        finite = one[one.isfinite()]
        scale = float(finite.abs().amax()) if finite.numel() else 0.0
        here = float(apart.amax())
        absolute = max(absolute, here)
        relative = max(relative, here / scale if scale else (float("inf") if here else 0.0))
    return Difference(name, call, absolute, relative)
