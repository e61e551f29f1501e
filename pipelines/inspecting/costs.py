"""What a step costs: time and memory of each module, forward and backward, and of each operator."""

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from pipelines.inspecting import graph
from pipelines.inspecting.drawing import size
from pipelines.inspecting.graph import Graph
from pipelines.inspecting.subject import Subject
from pipelines.inspecting.trail import LOSS, NETWORK, Call, Trail, Watcher, hooked

HEADER = ("calls", "forward ms", "own ms", "backward ms", "weights", "keeps", "allocates")
"""Over the figures of a module."""
REPEATS = 5
"""Steps of which each time is the median, after one that is not counted."""
RANGE = "module "
"""What the ranges of modules are called in a trace."""


@dataclass
class Module:
    """What one module costs."""

    module: str
    kind: str
    calls: int
    forward_ms: float
    """Of all its calls, the modules within included."""
    own_ms: float
    """The same without the modules within."""
    backward_ms: float
    """Of the nodes that itself, not modules within, made in the graph."""
    weight_bytes: int
    saved_bytes: int
    """What its own nodes keep for the backward pass."""
    allocated_bytes: int = 0
    """What its calls took from the allocator and had not given back at their end."""

    def figures(self) -> tuple[Any, ...]:
        """Gives what a table shows of it, under HEADER."""
        sizes = map(size, (self.weight_bytes, self.saved_bytes, self.allocated_bytes))
        return (self.calls, self.forward_ms, self.own_ms, self.backward_ms, *sizes)


@dataclass
class Operator:
    """What all calls of one of PyTorch's operators cost, in one step, forward and backward."""

    name: str
    calls: int
    own_ms: float
    device_ms: float
    allocated_bytes: int


@dataclass
class Costs:
    """What one step costs."""

    batch_ms: float
    forward_ms: float
    backward_ms: float
    modules: list[Module]
    operators: list[Operator]
    peak_bytes: int | None
    """Largest memory on the GPU; None on a CPU, which PyTorch does not count."""


class _Clock(Watcher):
    """Adds up the time of modules, those within told apart."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.total: defaultdict[str, float] = defaultdict(float)
        self.own: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)
        self._open: list[tuple[float, float]] = []

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def enter(self, call: Call, module: nn.Module, inputs: Any) -> None:
        self._open.append((self.now(), 0.0))

    def leave(self, call: Call, module: nn.Module, outputs: Any) -> None:
        began, within = self._open.pop()
        taken = self.now() - began
        self.total[call.module] += taken
        self.own[call.module] += taken - within
        self.calls[call.module] += 1
        if self._open:
            self._open[-1] = (self._open[-1][0], self._open[-1][1] + taken)


@dataclass
class _Times:
    phases: tuple[float, float, float]
    clock: _Clock
    backward: dict[str, float]


class _Ranges(Watcher):
    """Marks modules in a trace."""

    def __init__(self) -> None:
        self._open: list[record_function] = []

    def enter(self, call: Call, module: nn.Module, inputs: Any) -> None:
        self._open.append(record_function(f"{RANGE}{call.module}"))
        self._open[-1].__enter__()

    def leave(self, call: Call, module: nn.Module, outputs: Any) -> None:
        self._open.pop().__exit__(None, None, None)


def measure(subject: Subject, drawn: Graph, trace: Path) -> Costs:
    """Times the step, then profiles it once and writes `trace`, which Perfetto and chrome://tracing show."""
    runs = [_time(subject) for _ in range(REPEATS + 1)][1:]
    if subject.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(subject.device)
    operators, allocated = _profile(subject, trace)
    peak = torch.cuda.max_memory_allocated(subject.device) if subject.device.type == "cuda" else None
    saved: defaultdict[str, int] = defaultdict(int)
    for node in drawn.nodes:
        saved[node.module] += node.saved_bytes
    named = [(name or NETWORK, module) for name, module in subject.network.named_modules()]
    modules = [_module(name, module, runs, saved[name], allocated.get(name, 0)) for name, module in named]
    outside = Module(LOSS, "", 1, 0.0, 0.0, _median([run.backward.get(LOSS, 0.0) for run in runs]), 0, saved[LOSS])
    outside.forward_ms = outside.own_ms = _median([run.phases[1] - run.clock.total[NETWORK] for run in runs])
    batch_ms, forward_ms, backward_ms = (_median([run.phases[at] for run in runs]) for at in range(3))
    called = [module for module in modules if module.calls]
    return Costs(batch_ms, forward_ms, backward_ms, [*called, outside], operators, peak)


def _module(name: str, module: nn.Module, runs: list[_Times], saved_bytes: int, allocated_bytes: int) -> Module:
    return Module(
        name,
        type(module).__name__,
        runs[0].clock.calls[name],
        _median([run.clock.total[name] for run in runs]),
        _median([run.clock.own[name] for run in runs]),
        _median([run.backward.get(name, 0.0) for run in runs]),
        sum(weight.numel() * weight.element_size() for weight in module.parameters(recurse=False)),
        saved_bytes,
        allocated_bytes,
    )


def _median(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds)


def _time(subject: Subject) -> _Times:
    clock = _Clock(subject.device)
    backward: defaultdict[str, float] = defaultdict(float)
    began: dict[Any, float] = {}
    with subject.rehearsal() as network:
        moments = [clock.now()]
        batch = subject.batch()
        moments.append(clock.now())
        with Trail(network, clock, lines=False) as trail:
            loss = subject.loss_of(batch)
        moments.append(clock.now())
        nodes = graph.read(loss, network, trail)[1]
        handles = []
        for node, entry in nodes.items():
            handles.append(node.register_prehook(_starts(node, began, clock)))
            handles.append(node.register_hook(_ends(node, entry.module, began, backward, clock)))
        with hooked(handles):
            moments.append(clock.now())
            loss.backward()
            moments.append(clock.now())
    phases = moments[1] - moments[0], moments[2] - moments[1], moments[4] - moments[3]
    return _Times(phases, clock, dict(backward))


def _starts(node: Any, began: dict[Any, float], clock: _Clock) -> Any:
    def start(gradients: Any) -> None:
        began[node] = clock.now()

    return start


def _ends(node: Any, module: str, began: dict[Any, float], backward: dict[str, float], clock: _Clock) -> Any:
    def end(given: Any, taken: Any) -> None:
        backward[module] += clock.now() - began[node]

    return end


def _profile(subject: Subject, trace: Path) -> tuple[list[Operator], dict[str, int]]:
    """Profiles one step; gives its operators, the costliest first, and what modules allocated."""
    activities = [ProfilerActivity.CPU]
    if subject.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    plan = schedule(wait=0, warmup=1, active=1, repeat=1)
    with profile(activities=activities, schedule=plan, record_shapes=True, profile_memory=True) as seen:
        for _ in range(2):
            with subject.rehearsal() as network:
                with record_function("forward"), Trail(network, _Ranges(), lines=False):
                    loss = subject.loss()
                with record_function("backward"):
                    loss.backward()
            seen.step()
    seen.export_chrome_trace(str(trace))
    operators, allocated = [], {}
    for entry in seen.key_averages():
        on_device = entry.device_memory_usage if subject.device.type == "cuda" else entry.cpu_memory_usage
        if entry.key.startswith(RANGE):
            allocated[entry.key.removeprefix(RANGE)] = int(on_device)
        elif entry.key.startswith("aten::"):
            own = entry.self_device_memory_usage if subject.device.type == "cuda" else entry.self_cpu_memory_usage
            times = entry.self_cpu_time_total / 1e3, entry.self_device_time_total / 1e3
            operators.append(Operator(entry.key.removeprefix("aten::"), entry.count, *times, int(own)))
    order = "device_ms" if subject.device.type == "cuda" else "own_ms"
    return sorted(operators, key=lambda entry: -getattr(entry, order)), allocated
