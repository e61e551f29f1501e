"""The same step computed in other ways: again, in bfloat16, by two ranks under DDP, compiled; module by module.

Dropout is off in all of them, so that what differs is the computation. Shapes: B examples of the batch.
"""

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator
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
Key = tuple[str, bool, int]
"""A module, whether it is given or gives, and which call of it, from 1."""
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
OTHER_GRAPHS = "the ranks drew different graphs, and only calls of modules that both made are compared"
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
    is_part: bool = False
    """Whether calls of modules could not be compared, as the ranks drew different graphs."""
    compared: int = 0
    """Outputs of modules' calls whose numbers were held against the eager ones."""
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
        "ddp": lambda: _ranked(subject, network, peers),
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


def _ranked(subject: Subject, network: nn.Module, peers: Peers | None) -> tuple[Computed, str]:
    assert peers is not None
    works = []
    static = getattr(subject.task.train, "STATIC_GRAPH", True)
    for rank in range(WORLD):
        own_B, weight = batches.share(subject.index, 1, rank, WORLD)[0]
        batch = _to_cpu(subject.batch(own_B))
        config = subject.plain_config()
        works.append(Work(copy.deepcopy(network).cpu(), batch, subject.task.train.loss, config, "cpu", static, weight))
    joined = _joined(peers.ranked(works, DDP_SECONDS), len(subject.index))
    return joined, OTHER_GRAPHS if joined.is_part else ""


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
    """Puts the ranks' rows in the order of the whole batch, B rows; DDP has made their gradients the same.

    Of ranks that called other modules, or one more often, what both called is kept.
    """
    first, second = (dict(_numbered(part.taps)) for part in parts)
    taps = []
    for key in [key for key in first if key in second]:
        one, other = first[key], second[key]
        pairs = zip(one.tensors, other.tensors, strict=False)
        taps.append(Tap(one.module, one.given, [_woven(*pair, count) for pair in pairs]))
    loss = sum(part.loss for part in parts) / len(parts)
    return Computed(taps, parts[0].gradients, loss, is_part=list(first) != list(second))


def _numbered(taps: list[Tap]) -> Iterator[tuple[Key, Tap]]:
    """Gives each tap with which call of its module it is of."""
    calls: Counter[tuple[str, bool]] = Counter()
    for tap in taps:
        calls[tap.module, tap.given] += 1
        yield (tap.module, tap.given, calls[tap.module, tap.given]), tap


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
        """Compares call by call, up to the first at which this computation took another way."""
        found = Comparison(self.way, self.tolerance, (self.eager.loss, other.loss), is_part=other.is_part)
        worst: dict[str, Difference] = {}
        open_calls: list[str] = []
        for call, ours, theirs in self._pairs(other):
            owner = (open_calls[-1] if open_calls else LOSS) if ours.given else ours.module
            open_calls = [*open_calls, ours.module] if ours.given else open_calls[:-1]
            if isinstance(theirs, str):
                found.first = found.first or theirs
                break
            if theirs is None:
                continue
            entry = _difference(ours.module, call, ours.tensors, theirs.tensors)
            found.compared += not ours.given and any(True for _ in _shared(ours.tensors, theirs.tensors))
            if not found.first and entry.relative > self.tolerance and owner not in self.random:
                code = ", in its own code before it calls " + ours.module if ours.given else ""
                found.first, found.kind = f"{owner}, call {entry.call}{code}", self.kinds.get(owner, "")
            if not ours.given and entry.relative >= worst.get(ours.module, entry).relative:
                worst[ours.module] = entry
        found.modules = list(worst.values())
        self._gradients(found, other)
        return found

    def _pairs(self, other: Computed) -> Iterator[tuple[int, Tap, Tap | str | None]]:
        """Gives eager calls beside the other's: None where ranks left one out, words where it is another call."""
        if other.is_part:
            theirs = dict(_numbered(other.taps))
            yield from ((key[2], ours, theirs.get(key)) for key, ours in _numbered(self.eager.taps))
            return
        end, numbered = Tap("", False, []), [*_numbered(self.eager.taps)]
        for at in range(max(len(numbered), len(other.taps))):
            key, ours = numbered[at] if at < len(numbered) else (("", False, 0), end)
            own = other.taps[at] if at < len(other.taps) else end
            is_same = (ours.module, ours.given) == (own.module, own.given)
            yield key[2], ours, own if is_same else _elsewhere(ours, own)

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


def _elsewhere(ours: Tap, theirs: Tap) -> str:
    """Names the call at which a computation took another way than eager."""
    if not theirs.module:
        return f"{ours.module}, which it does not come to"
    return f"{theirs.module}, called where eager {f'calls {ours.module}' if ours.module else 'has ended'}"


def _shared(ours: list[Tensor], theirs: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Gives what tensors share of their numbers, where both have any; float64."""
    for one, other in zip(ours, theirs, strict=False):
        if one.numel() and other.numel() and one.dim() == other.dim():
            window = tuple(slice(min(pair)) for pair in zip(one.shape, other.shape, strict=True))
            yield one[window].double(), other[window].double()


def _difference(name: str, call: int, ours: list[Tensor], theirs: list[Tensor]) -> Difference:
    """Finds the largest difference; of tensors padded to other sizes, within what they share."""
    absolute = relative = 0.0
    for one, other in _shared(ours, theirs):
        same = (one == other) | (one.isnan() & other.isnan())
        apart = torch.where(same, torch.zeros_like(one), (one - other).abs()).nan_to_num(nan=float("inf"))
        finite = one[one.isfinite()]
        scale = float(finite.abs().amax()) if finite.numel() else 0.0
        here = float(apart.amax())
        absolute = max(absolute, here)
        relative = max(relative, here / scale if scale else (float("inf") if here else 0.0))
    return Difference(name, call, absolute, relative)
