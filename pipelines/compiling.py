"""torch.compile: what it made of a network, and whether that pays.

Kernels depend on the sizes they are first compiled for, so they are always compiled on the same batches, before the
first step, and never again: sizes that none of them fits are computed eager. So a run that is resumed, or for which
`auto` chose, computes with the same kernels as any other, and does not recompile for ever.
"""

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.passes import MARGIN, Workload

LEAST_S = 60.0
"""Seconds that a run must take, eager, before compiling is tried: it takes that long itself on a CPU."""
WARM_BATCHES = 4
"""Micro-batches that a network is compiled on, besides the smallest and the last of an epoch."""
MOST_REASONS = 5
Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Report:
    """What torch.compile has done in this process since `begin`."""

    graphs: int
    """Graphs that were compiled."""
    breaks: int
    """Places where a graph ends because Python must decide."""
    recompiles: int
    """Times that a network was compiled again, for other sizes."""
    reasons: tuple[str, ...]
    """Why graphs broke and why it was compiled again, a few, shortened."""


def has_compiler() -> bool:
    """Whether there is a C++ compiler, without which there are no kernels."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)


def check_compiler(device: torch.device) -> None:
    """Raises ValueError where --compile has no C++ compiler."""
    if not has_compiler():
        named = os.environ.get("CXX", "")
        raise ValueError(
            f"--compile needs a C++ compiler for the {device.type}, and there is none on PATH"
            f"{f' (CXX is {named!r})' if named else ''}; install g++ or leave out --compile"
        )


def begin() -> None:
    """Forgets what was compiled before in this process, and begins to count."""
    import torch._dynamo as dynamo

    torch.compiler.set_stance("default")
    dynamo.reset()
    dynamo.utils.counters.clear()
    dynamo.utils.clear_compilation_metrics()


def report() -> Report:
    """Counts graphs, breaks and recompilations since `begin`."""
    from torch._dynamo import utils

    broken = [_reason(text) for kind in ("unimplemented", "graph_break") for text in utils.counters[kind]]
    again = [metric.recompile_reason for metric in utils.get_compilation_metrics() if metric.recompile_reason]
    reasons = tuple(dict.fromkeys([*broken, *map(_line, again)]))[:MOST_REASONS]
    return Report(utils.counters["stats"]["unique_graphs"], len(set(broken)), len(again), reasons)


def _reason(text: str) -> str:
    """Shortens what torch says of a break to its title and the place."""
    place = re.search(r'File "(?:.*/)?(.+?)", line (\d+)(?:, in .+?, code: (.+))?', text)
    where = f" at {place[1]}:{place[2]}: {place[3] or ''}".rstrip(": ") if place else ""
    return _line(text.partition("\n")[0] + where)


def _line(text: str) -> str:
    return " ".join(text.split())[:200]


def warm_up(network: nn.Module, work: Workload, parts: list[Tensor], backend: str = "inductor") -> tuple[Any, float]:
    """Compiles a network on a few micro-batches of the first epoch, and returns it with the seconds that took.

    Sizes are symbols from the start where they differ from batch to batch; else only where they turn out to differ.
    `backend` is PyTorch's name for what makes the kernels.
    """
    begin()
    dynamic = True if work.split.lengths is not None else None
    replica = torch.compile(network, dynamic=dynamic, backend=backend)
    began = time.monotonic()
    with work.untouched(network):
        for index_B in (*parts[:1], min(parts, key=len), parts[-1], *parts[1:WARM_BATCHES]):
            work.run(replica, index_B)  # type: ignore[arg-type]
    torch.compiler.set_stance("eager_on_recompile")
    return replica, time.monotonic() - began


def fastest(
    network: nn.Module, work: Workload, parts: list[Tensor], passes: int, emit: Emit, backend: str = "inductor"
) -> nn.Module | None:
    """Measures a network eager and compiled and gives the compiled one where it is clearly faster over a run's passes.

    Nothing of the network changes. Says in the event `compiled` what was found. All ranks decide alike.
    """
    with work.untouched(network):
        work.run(network, parts[0])
        eager_s = work.mean(min(work.seconds(network, parts[0]) for _ in range(3))) * passes
    if eager_s < LEAST_S:
        why = f"the run takes about {eager_s:.0f} s, too short for compiling to pay"
        emit({"event": "compiled", "used": False, "why": why})
        return None
    why, seconds = "", 0.0
    replica: Any = network
    try:
        check_compiler(work.device)
        replica, seconds = warm_up(network, work, parts, backend)
    except Exception as problem:  # whatever the compiler trips over, eager works
        why = f"it failed: {_line(str(problem))}"
    if work.mean(float(bool(why))):
        emit({"event": "compiled", "used": False, "why": why or "it failed on another worker"})
        return None
    with work.untouched(network):
        gain = work.gain(network, replica, parts[: 2 * WARM_BATCHES])
    used = gain >= MARGIN
    why = f"{gain:.2f} times as fast as eager"
    emit({"event": "compiled", "used": used, "gain": gain, "seconds": seconds, **vars(report()), "why": why})
    return replica if used else None
