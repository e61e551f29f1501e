"""Two more processes that compute a step as ranks of a world of two, or compiled, and can be stopped if they take long.

They start early, since importing PyTorch takes seconds, and wait for work.
"""

import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines.settings import Settings

WORLD = 2
START_SECONDS, END_SECONDS = 60, 2


@dataclass
class Work:
    """A network, what it is to compute, and how."""

    network: Any
    batch: Any
    loss: Callable[[Any, Any], Any]
    config: Settings
    device: str
    static: bool
    weight: float = 1.0
    """Of the batch's mean loss in the mean over ranks."""


class Peers:
    """The processes, while it is entered."""

    def __init__(self, threads: int) -> None:
        """Starts them; `threads`: CPU threads of each, as this process has."""
        self._folder = tempfile.TemporaryDirectory(prefix="eagerly-inspect-")
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            store = str(Path(self._folder.name) / "store")
            process = context.Process(target=_serve, args=(rank, store, threads, theirs), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)

    def __enter__(self) -> "Peers":
        """Gives itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the processes."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.send(None)
        for process in self._processes:
            process.join(END_SECONDS)
            process.kill()
            process.join()
        for end in self._ends:
            end.close()
        self._folder.cleanup()

    def ranked(self, works: list[Work], seconds: float) -> list[Any]:
        """Lets each rank compute its share under DDP; raises RuntimeError with what went wrong."""
        for end, work in zip(self._ends, works, strict=True):
            end.send(("ranked", work))
        return [self._answer(end, seconds + START_SECONDS) for end in self._ends]

    def compiled(self, work: Work, seconds: float) -> Any:
        """Lets one process compile the network; raises RuntimeError with what went wrong, as that it took too long."""
        self._ends[0].send(("compiled", work))
        return self._answer(self._ends[0], seconds)

    def _answer(self, end: Connection, seconds: float) -> Any:
        try:
            answer = end.recv() if end.poll(seconds) else RuntimeError(f"it was not done within {seconds:.0f} s")
        except (EOFError, OSError) as problem:
            raise RuntimeError("the process that computed it died") from problem
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(rank: int, store: str, threads: int, end: Connection) -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP's advice on how to be faster
    import torch
    import torch._dynamo  # DDP imports it at its first use, which takes seconds
    import torch.distributed as dist

    torch.set_num_threads(threads)
    while True:
        try:
            asked = end.recv()
        except EOFError:
            return
        if asked is None:
            return
        kind, work = asked
        try:
            if kind == "ranked":
                if not dist.is_initialized():
                    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
                end.send(_ranked(work))
            else:
                if dist.is_initialized():
                    dist.destroy_process_group()
                end.send(_compiled(work))
        except Exception as problem:  # told to the one that asked
            words = " ".join(str(problem).split())
            with contextlib.suppress(OSError):
                end.send(RuntimeError(f"{type(problem).__name__}: {words[:300]}"))


def _ranked(work: Work) -> Any:
    from pipelines.inspecting.taps import compute
    from pipelines.replica import replicate

    replica = replicate(work.network, work.config.accumulate, WORLD, work.static)
    return compute(work.network, replica, work.loss, work.batch, work.weight)


def _compiled(work: Work) -> Any:
    import torch
    from torch._dynamo.utils import counters
    from torch._inductor import config as inductor

    from pipelines.inspecting.taps import compute

    inductor.compile_threads = 1  # no further processes, which would outlive this one when it is stopped
    network = work.network.to(work.device)
    compiled: Any = torch.compile(network)
    found = compute(network, compiled, work.loss, work.batch)
    return found, dict(counters["graph_break"])
