"""A replica's part in rollouts: it tries what its node's watcher tells it to, and writes down what it has counted."""

import asyncio
import functools
import logging
import time
from collections.abc import Iterable
from dataclasses import replace

from pipelines.policy import Rollout, Tally
from services import seats, threads
from services.models import Loaded, Loader, Stored
from services.seats import Count, Seat, Told
from services.slots import Slot
from services.store import Store
from services.trial import Trial

log = logging.getLogger(__name__)

WRITE_S = 1.0
"""Seconds between two writings of what was counted; what stops a candidate is written at once."""
LOAD_S = 180.0
"""Longest wait for a model to be loaded, as others wait to come after it; more than apart.py gives its processes."""


class Loads:
    """Loads models on threads of their own, as a thread that hangs cannot be stopped but only left behind."""

    def __init__(self, load: Loader) -> None:
        """Takes how a model is loaded."""
        self._load = load
        self._left: set[Stored] = set()

    async def bring(self, stored: Stored) -> Loaded:
        """Loads a model; raises what that raises, and TimeoutError when it hangs; no second try is begun meanwhile."""
        if stored in self._left:
            raise TimeoutError("an earlier try to load it hangs and has not ended yet")
        work = threads.begin(functools.partial(self._load, stored), f"load-{stored.service}")
        limit = asyncio.timeout(LOAD_S)
        try:
            async with limit:
                return await asyncio.wrap_future(work)
        except TimeoutError:
            if not limit.expired():
                raise
            self._left.add(stored)
            work.add_done_callback(lambda _: self._left.discard(stored))
            raise TimeoutError(f"it is not loaded after {LOAD_S:.0f} s; its thread is left behind") from None


class Candidates:
    """The rollouts of a replica's models, of which each has at most one."""

    def __init__(self, store: Store, own: dict[str, str], loads: Loads) -> None:
        """Takes the folder of each task that is a user's own, empty for the others, and what loads models."""
        self._store = store
        self._own = own
        self._loads = loads
        self._seats: dict[str, Seat] = {}
        self._counts: dict[str, Count] = {}
        self._told: dict[str, str] = {}
        """The id of the rollout that runs of each task."""
        self._beginning: dict[str, tuple[Stored, asyncio.Task[None]]] = {}
        """Candidates that are being loaded."""
        self._written: dict[str, tuple[float, tuple[str, int, str] | None]] = {}
        self._unwritten: set[str] = set()

    def told(self) -> dict[str, Told]:
        """Reads the rollouts that run; blocks."""
        found = {task: seats.told(self._store, task) for task in self._own}
        return {task: one for task, one in found.items() if one and one.candidate and one.rollout.state == "running"}

    async def look(self, slot: Slot, told: Told | None) -> None:
        """Begins and ends a model's trial as told, and writes down what was counted; does not wait for loading."""
        task, trial = slot.name, slot.trial
        if trial:
            trial.check()
        if trial and (told is None or told.rollout.id != trial.rollout.id or trial.count.stopped):
            await self._write(task, trial.count, now=True)
            await slot.end_trial()
        if told is None:
            self._told.pop(task, None)
            return
        self._told[task] = told.rollout.id
        count = await self._count(task, told.rollout)
        if self._is_due(slot, told, count) and task not in self._beginning:
            self._start(slot, told, count)
        if task not in self._beginning:
            await self._write(task, count, now=bool(count.stopped))

    async def close(self, slots: Iterable[Slot]) -> None:
        """Ends all trials and leaves the seats to other replicas."""
        loading = [begun for _, begun in self._beginning.values()]
        for begun in loading:
            begun.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        for slot in slots:
            if slot.trial:
                await self._write(slot.name, slot.trial.count, now=True)
                await slot.end_trial()
        for seat in self._seats.values():
            seat.close()
        self._seats.clear()

    async def begun(self, stored: Stored) -> None:
        """Waits while a version is being loaded as a candidate, so that it is not loaded twice."""
        candidate, begun = self._beginning.get(stored.service, (None, None))
        if begun and candidate == stored:
            await asyncio.wait([begun])

    def _is_due(self, slot: Slot, told: Told, count: Count) -> bool:
        """Says whether a trial should run that does not."""
        ours, theirs = slot.current.loaded.version, told.rollout.champion
        return self._told.get(slot.name) == told.rollout.id and not (slot.trial or count.stopped or ours != theirs)

    def _start(self, slot: Slot, told: Told, count: Count) -> None:
        """Has the candidate loaded while looking, and swaps, go on."""
        assert told.candidate is not None
        stored = replace(told.candidate, task=self._own[slot.name])
        begun = asyncio.create_task(self._begin(slot, told, stored, count))
        self._beginning[slot.name] = stored, begun
        begun.add_done_callback(lambda _: self._beginning.pop(slot.name))

    async def _begin(self, slot: Slot, told: Told, stored: Stored, count: Count) -> None:
        """Loads the candidate beside the model that answers; one that fails is not tried again."""
        try:
            candidate = await slot.prepare(await self._loads.bring(stored), served=False)
        except Exception as problem:
            log.exception("%s version %s cannot be tried", slot.name, stored.version)
            count.stopped = f"it cannot be loaded: {' '.join(str(problem).split()) or type(problem).__name__}"
            slot.count("refused")
            return
        if not self._is_due(slot, told, count):
            await candidate.close()
            return
        if told.rollout.mode == "canary":
            candidate.batcher.observe = slot.observe
            candidate.info.set(1)
        slot.trial = Trial(told.rollout, slot.current, candidate, count, slot.counters)
        log.warning("%s version %s is tried as a %s", slot.name, stored.version, told.rollout.mode)

    async def _count(self, task: str, rollout: Rollout) -> Count:
        """Finds what was counted here of a rollout, also before this replica started."""
        found = self._counts.get(task)
        if found is None or found.id != rollout.id:
            found = self._counts[task] = await asyncio.to_thread(self._sit, task, rollout)
        return found

    def _sit(self, task: str, rollout: Rollout) -> Count:
        if task not in self._seats:
            self._seats[task] = Seat(self._store, task)
        return self._seats[task].count(rollout)

    async def _write(self, task: str, count: Count, now: bool) -> None:
        """Writes what was counted, if there is more of it than last time."""
        tally = count.tally
        state = count.id, tally.champion.calls + tally.candidate.calls + tally.dropped, count.stopped
        at_s, before = self._written.get(task, (0.0, None))
        if state != before and (now or time.monotonic() - at_s >= WRITE_S):
            snapshot = replace(count, tally=tally + Tally())  # for the thread, as counting goes on
            try:
                await asyncio.to_thread(self._seats[task].write, snapshot)
            except OSError as problem:  # a full disk must not end the looking, nor lose what stopped a candidate
                if task not in self._unwritten:
                    log.error("counts of %s cannot be written yet: %s", task, problem)  # noqa: TRY400 - no traceback
                self._unwritten.add(task)
                return
            self._unwritten.discard(task)
            self._written[task] = time.monotonic(), state
