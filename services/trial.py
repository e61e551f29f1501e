"""A candidate beside the model that answers, for as long as its rollout runs.

As a shadow it is asked what callers asked, once they have their replies; as a canary it answers a share of the calls.
Both are left to their threads meanwhile, so that no caller waits for a copy and the two are measured alike. Every call
that counts is judged at once by this replica's own figures, without the registry or anybody else: from the call on that
puts the candidate over a limit, the champion answers alone.
"""

import asyncio
import contextlib
import functools
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pipelines import agreement, policy
from pipelines.policy import Role, Rollout
from services import errors, visits
from services.batches import Batch
from services.door import Context
from services.seats import Count
from services.slots import Counters, Generation

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Seconds after which a call that the candidate has not answered has failed."""
MOST_WAITING_ITEMS = 256
"""Items of copied calls that wait for a shadow; beyond it a copy is dropped, unless it is the only one."""
MOST_WAITING_BYTES = 64 << 20
"""Bytes of what they ask, likewise, as of photos: they lie outside what the door holds, whose callers were answered."""
CLOSE_S = 10.0
"""Seconds that a candidate has to answer what waits when its trial ends; one that hangs is left behind."""


@dataclass(frozen=True)
class Copy:
    """A call that was answered, for the shadow to answer too."""

    inputs: list[Any]
    answers: list[Any]

    @property
    def byte_count(self) -> int:
        """How large files, pixels and texts among the inputs are; others are small."""
        sizes = (
            getattr(one, "nbytes", None) or (len(one) if isinstance(one, bytes | str) else 0) for one in self.inputs
        )
        return sum(sizes)


@dataclass(frozen=True)
class Work:
    """One of the two models, and what is counted of it."""

    role: str
    generation: Generation
    figures: Role


class Trial:
    """One rollout in one replica; all methods are for the event loop's thread."""

    def __init__(
        self, rollout: Rollout, champion: Generation, candidate: Generation, count: Count, counters: Counters
    ) -> None:
        """Takes both generations, warm, and what was counted here before; must be called on the running event loop."""
        self.rollout = rollout
        self.candidate = candidate
        self.count = count
        self._counters = counters
        self._champion = champion
        self._draw = random.Random().random
        self._mine = Work("candidate", candidate, count.tally.candidate)
        self._theirs = Work("champion", champion, count.tally.champion)
        self._canary = replace(candidate, submit=functools.partial(self._counted, self._mine))
        ask = self._counted if rollout.mode == "canary" else self._timed
        self._rest = replace(champion, submit=functools.partial(ask, self._theirs))
        self._observer = champion.batcher.observe
        for work in (self._mine, self._theirs):
            work.generation.batcher.is_threaded = True
            work.generation.batcher.observe = _weighed(work, work.generation.batcher.observe)
        self._queue: asyncio.Queue[Copy] = asyncio.Queue()
        self._waiting_items = self._waiting_bytes = 0
        self._worker = asyncio.create_task(self._shadow()) if rollout.mode == "shadow" else None
        self._closing: asyncio.Task[None] | None = None
        counters.shares[rollout.mode].set(rollout.share)

    def pick(self, context: Context) -> Generation:
        """Chooses by chance, for each call anew, what answers it, or whether it is copied once it is answered."""
        if self.count.stopped:
            return self._champion
        chosen = self._draw() < self.rollout.share
        if not chosen:
            return self._rest
        if self.rollout.mode == "canary":
            return self._canary
        return replace(self._champion, submit=functools.partial(self._copied, context))

    def stop(self, reason: str) -> None:
        """Uses the candidate no more."""
        if not self.count.stopped:
            self.count.stopped = reason
            self._counters.shares[self.rollout.mode].set(0)
            name = self._champion.loaded.name
            log.error("%s version %s is stopped here: %s", name, self.rollout.version, reason)

    def check(self) -> None:
        """Stops when the candidate's thread has died, which need not end the replica."""
        try:
            self.candidate.batcher.check()
        except RuntimeError as problem:
            self.stop(str(problem))

    def release(self) -> Generation:
        """Gives the candidate away, to be served; closing the trial then leaves it alone."""
        self._closing = asyncio.create_task(asyncio.sleep(0))
        self.candidate.batcher.is_threaded = False
        return self.candidate

    async def close(self) -> None:
        """Ends the trial, and the candidate's thread when it has answered what waits."""
        self._counters.shares[self.rollout.mode].set(0)
        self._champion.batcher.observe, self._champion.batcher.is_threaded = self._observer, False
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        if self._closing is None:
            self.candidate.info.set(0)
            self._closing = asyncio.create_task(self.candidate.close())
        _, late = await asyncio.wait([self._closing], timeout=CLOSE_S)
        if late:
            log.error("version %s of a rollout hangs; its thread is left behind", self.rollout.version)

    async def _timed(self, work: Work, inputs: list[Any], deadline: float) -> list[Any]:
        """Asks a model and notes how long it took."""
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE_S if work is self._mine else None):
            answers = await work.generation.batcher.submit(inputs, deadline)
        if not _failed(answers):
            seconds = time.monotonic() - began
            work.figures.waits.add(seconds)
            self._counters.seconds[work.role].observe([seconds])
        return answers

    async def _counted(self, work: Work, inputs: list[Any], deadline: float) -> list[Any]:
        """Asks a model for a caller and counts what came of it."""
        try:
            answers = await self._timed(work, inputs, deadline)
        except errors.Unavailable:  # the endpoint drains, which is no model's fault
            raise
        except BaseException:  # also when the caller has gone, as those do who wait in vain
            self._note(work, True)
            self._judge()
            raise
        self._note(work, _failed(answers))
        self._judge()
        return answers

    async def _copied(self, context: Context, inputs: list[Any], deadline: float) -> list[Any]:
        """Asks the champion for a caller, and has the call copied once the caller has been answered."""
        answers = await self._timed(self._theirs, inputs, deadline)
        copy = Copy(inputs, answers)
        context.add_done_callback(lambda _: self._offer(copy))  # type: ignore[arg-type]
        return answers

    def _offer(self, copy: Copy) -> None:
        """Puts a copy into the queue, or drops it when too much waits."""
        if self.count.stopped:
            return
        items, size = self._waiting_items + len(copy.inputs), self._waiting_bytes + copy.byte_count
        if self._waiting_items and (items > MOST_WAITING_ITEMS or size > MOST_WAITING_BYTES):
            self.count.tally.dropped += 1
            self._counters.calls["candidate", "dropped"].add(1)
            return
        self._waiting_items, self._waiting_bytes = items, size
        self._queue.put_nowait(copy)

    async def _shadow(self) -> None:
        """Has the candidate answer copies, one after the other; none of it belongs to any call in logs or traces."""
        visits.current.set(None)
        while True:
            copy = await self._queue.get()
            self._waiting_items -= len(copy.inputs)
            self._waiting_bytes -= copy.byte_count
            if not self.count.stopped:
                await self._compare(copy)

    async def _compare(self, copy: Copy) -> None:
        """Counts both models' part in a call, and whether they agree."""
        answers: list[Any] = []
        with contextlib.suppress(errors.ServiceError, TimeoutError):
            answers = await self._timed(self._mine, copy.inputs, float("inf"))
        if answers:
            agreed = await asyncio.to_thread(self._agreement, copy.answers, answers)
            self.count.tally.compared += 1
            self.count.tally.agreed += agreed
            self._counters.compared.add(1)
            self._counters.agreed.add(agreed)
        self._note(self._theirs, _failed(copy.answers))
        self._note(self._mine, not answers or _failed(answers))
        self._judge()

    def _agreement(self, ours: list[Any], theirs: list[Any]) -> float:
        try:
            return agreement.of(self.candidate.loaded.model, ours, theirs)
        except Exception:
            log.exception("the answers of version %s cannot be compared", self.rollout.version)
            return 0.0

    def _note(self, work: Work, failed: bool) -> None:
        work.figures.calls += 1
        work.figures.errors += failed
        self._counters.calls[work.role, "error" if failed else "ok"].add(1)

    def _judge(self) -> None:
        if not self.count.stopped and (reason := policy.over(self.rollout, self.count.tally)):
            self.stop(reason)


def _weighed(work: Work, observe: Callable[[Batch], None] | None) -> Callable[[Batch], None]:
    """Makes an observer that also notes what a call cost that was computed alone."""

    def note(batch: Batch) -> None:
        if observe is not None:
            observe(batch)
        if len(batch.calls) == 1 and batch.cpu_s and batch.failure is None and not _failed(batch.results):
            work.figures.work.add(batch.cpu_s)

    return note


def _failed(answers: list[Any]) -> bool:
    return any(isinstance(answer, Exception) for answer in answers)
