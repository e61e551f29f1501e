"""Models whose network lives in processes of its own: an endpoint's replicas batch, validate and forward to them.

Each part of a network is a Serve application with one replica, which outlives the endpoint's replicas, so that calls in
flight are answered to the end. Requests name the digest of the model that they want; a part holds the model that
answers now and the one that takes its place, so no reply mixes two. Arrays and plain facts travel, nothing else.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from ray import exceptions, serve
from ray.serve.exceptions import RayServeException

from services import errors, memory, models, ports
from services.models import Loaded, Stored
from services.resources import Hardware
from services.server import Server

log = logging.getLogger(__name__)

Arrays = list[NDArray[Any]]
Facts = dict[str, Any]
"""A Stored, as plain facts."""
KEPT_COUNT = 2
"""Models that a part holds: the one that answers, and the next or the one before."""
RECENT_S = 5.0
"""Seconds for which a model that was asked for stays all the same: a candidate, a champion that comes and the one that
answers are three, and who let go of one of them would load it again at the next call."""
LOOK_S = 0.5
"""Seconds between looks at whether a part lives, and between looks of a call that waits for one."""
SILENCE_S = 2.0
"""Seconds without an answer after which a part counts as gone; it answers while it computes."""
LOAD_S = 120.0
"""Seconds that a part has to come up and load a model."""


class Part:
    """One process with a part of a task's network, or all of it."""

    def __init__(self, stored: Facts, index: int, count: int, device: str, threads: int) -> None:
        """Loads the part of the model that is served first; raises ValueError when that cannot be.

        A part that is started again finds that model gone when it is old; the endpoint then asks for the right one.
        """
        import torch

        ports.narrow()
        torch.set_num_threads(threads)
        self._index, self._count, self._device = index, count, device
        self._held: OrderedDict[str, Any] = OrderedDict()
        """By digest, the one last that was asked for last."""
        self._asked_at: dict[str, float] = {}
        self._loading = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "part")
        if Path(stored["folder"]).is_dir():
            self._held[stored["digest"]] = self._load(Stored(**stored))

    async def hold(self, stored: Facts) -> None:
        """Loads the part of a model beside those it holds, and lets go of the oldest of too many.

        One that is held is there at once, also while another is being loaded.
        """
        digest = stored["digest"]
        if digest not in self._held:
            async with self._loading:
                if digest not in self._held:
                    self._held[digest] = await asyncio.to_thread(self._load, Stored(**stored))
        self._ask(digest)
        while len(self._held) > KEPT_COUNT:
            oldest = next(iter(self._held))
            if time.monotonic() < self._asked_at.get(oldest, 0.0) + RECENT_S:
                break
            del self._held[oldest]
            self._asked_at.pop(oldest, None)

    async def compute(self, stored: Facts, arrays: Arrays) -> Arrays:
        """Computes a batch with the model that the caller names."""
        digest = stored["digest"]
        if digest not in self._held:
            await self.hold(stored)
        self._ask(digest)
        part = self._held[digest]
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, part, arrays)

    async def holds(self) -> Facts:
        """Says which process it is, and the bytes of each tensor that it holds, by digest and name."""
        weights = {
            digest: {name: one.nbytes for name, one in part.named_parameters() if one.numel()}
            for digest, part in self._held.items()
        }
        return {"pid": os.getpid(), "weights": weights}

    def _ask(self, digest: str) -> None:
        self._held.move_to_end(digest)
        self._asked_at[digest] = time.monotonic()

    def _load(self, stored: Stored) -> Any:
        try:
            return models.load_stage(stored, self._index, self._count, self._device)
        except ValueError as problem:
            raise ValueError(str(problem)) from None  # the plain type, by which hosting.py finds the sentence

    def _compute(self, part: Any, arrays: Arrays) -> Arrays:
        """Runs on a thread of its own, so that the process answers those who ask whether it lives."""
        import numpy as np
        import torch

        with torch.inference_mode():
            tensors = [torch.from_numpy(np.require(array, requirements="W")) for array in arrays]
            return [tensor.cpu().numpy() for tensor in part(*(tensor.to(self._device) for tensor in tensors))]


class Apart:
    """What a replica of the endpoint knows of the parts: their handles, and whether they live."""

    def __init__(self, names: dict[str, list[str]]) -> None:
        """Finds the parts of each task by their applications' names; blocks."""
        self._handles = {task: [serve.get_app_handle(name) for name in parts] for task, parts in names.items()}
        self._facts: dict[str, Facts] = {}
        self._up = dict.fromkeys(names, True)
        self._watches: list[asyncio.Task[None]] = []

    def load(self, stored: Stored, device: str) -> Loaded:
        """Loads a model, its network into the parts where its task has some; blocks.

        Raises ValueError as models.load does, and when a part cannot load its own.
        """
        handles = self._handles.get(stored.service)
        if handles is None:
            return models.load(stored, device)
        facts = self._facts[stored.digest] = asdict(stored)

        def compute(arrays: Arrays) -> Arrays:
            return self._compute(stored.service, facts, arrays)

        loaded = models.load(stored, make=lambda kind, folder: kind.load_apart(folder, compute))
        for response in [handle.hold.remote(facts) for handle in handles]:
            _wait(response, stored.service, LOAD_S)
        return loaded

    def follow(self, server: Server) -> None:
        """Looks from now on whether the parts live, and says so in health; for the running event loop."""
        self._watches = [asyncio.create_task(self._look(task, server)) for task in self._handles]

    async def close(self) -> None:
        """Looks no more."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    def _compute(self, task: str, facts: Facts, arrays: Arrays) -> Arrays:
        """Sends a batch through the parts, from process to process; on the thread of the task's model."""
        if not self._up[task]:
            raise _away(task)
        passed: list[Any] = [arrays]
        for handle in self._handles[task]:
            passed.append(handle.compute.remote(facts, passed[-1]))
        try:
            return _wait(passed[-1], task, float("inf"), lambda: self._up[task])
        except errors.Away:
            for response in passed[1:-1]:
                response.cancel()
            raise

    async def _look(self, task: str, server: Server) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._ask(task, server)
            except Exception:
                log.exception("looking after the processes of %s failed; it goes on", task)

    async def _ask(self, task: str, server: Server) -> None:
        """Has each part hold what is served, which a part that was started again must load first."""
        facts = self._facts[server.slots[task].current.loaded.digest]
        asked = asyncio.gather(*(_awaited(handle.hold.remote(facts)) for handle in self._handles[task]))
        try:
            done, _ = await asyncio.wait([asked], timeout=SILENCE_S)
            if not done:
                self._say(task, False, server)
                await asyncio.wait([asked], timeout=LOAD_S)
            self._say(task, asked.done() and asked.exception() is None, server)
        finally:
            asked.cancel()

    def _say(self, task: str, is_up: bool, server: Server) -> None:
        if is_up != self._up[task]:
            log.warning("the processes of %s %s", task, "are back" if is_up else "do not answer")
            self._up[task] = is_up
            server.mark(task, is_up)


def application(stored: Stored, index: int, count: int, threads: int, hardware: Hardware) -> serve.Application:
    """Describes one part to Serve; it takes of the cluster what a replica would that computed the model itself."""
    deployment = serve.deployment(
        name=f"{stored.service}-{index + 1}-of-{count}",
        num_replicas=1,
        ray_actor_options={**hardware.actor(), "runtime_env": {"env_vars": memory.ENVIRONMENT}},
        max_ongoing_requests=1000,
        max_constructor_retry_count=1,
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.1,
    )
    return deployment(Part).bind(asdict(stored), index, count, hardware.resources.device, threads)


async def _awaited(response: Any) -> Any:
    return await response


def _wait(response: Any, task: str, timeout_s: float, lives: Callable[[], bool] = lambda: True) -> Any:
    """Waits for a part's answer while it lives.

    Raises Away when it is gone or does not answer in time, and ValueError with its own sentence when it refuses.
    """
    left_s = timeout_s
    while True:
        try:
            return response.result(timeout_s=min(LOOK_S, left_s))
        except TimeoutError:
            left_s -= LOOK_S
            if left_s <= 0 or not lives():
                response.cancel()
                raise _away(task) from None
        except exceptions.RayTaskError as problem:
            if isinstance(problem.cause, exceptions.RayError):  # of the part before
                raise _away(task) from None
            if isinstance(problem.cause, ValueError):
                raise ValueError(str(problem.cause)) from None
            raise
        except (exceptions.RayError, RayServeException, asyncio.CancelledError) as problem:
            log.warning("a process of %s failed: %s", task, type(problem).__name__)
            raise _away(task) from None


def _away(task: str) -> errors.Away:
    return errors.Away(f"the process that computes {task} is starting again; try again in a few seconds")
