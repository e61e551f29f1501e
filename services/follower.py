"""A replica's part in following the registry: it takes up what the store has, and keeps the node's watcher alive."""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace

from pipelines.sealed import Corrupt
from services import models, tryout
from services.candidates import Candidates, Loads
from services.models import Loaded, Loader, Stored
from services.options import Options
from services.seats import Told
from services.server import Server
from services.slots import Slot
from services.store import State, Store

log = logging.getLogger(__name__)

LOOK_S = 0.3
"""Seconds between looks at the store."""
REMIND_S = 30.0
"""Seconds between two lines of a log that say what a replica waits for."""
AGAIN_S = 30.0
"""Seconds until a model is tried again that failed for another reason than being wrong, such as full memory."""
RESTART_S = 5.0
"""Least seconds between two starts of the watcher."""


class Leash:
    """Runs the node's watcher for as long as this process lives, unless another replica of the node does."""

    def __init__(self, store: Store, poll_s: float) -> None:
        """Starts nothing before hold()."""
        self._store = store
        self._poll_s = poll_s
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started = float("-inf")

    @property
    def watcher_pid(self) -> int | None:
        """The watcher's process id; None when another replica has it."""
        return self._process.pid if self._process else None

    def hold(self) -> None:
        """Takes the watcher over when nobody has it, and starts it again when it has ended; cheap when all is well."""
        if self._lock is None:
            self._lock = self._store.watch()
        if self._lock is None or (self._process and self._process.poll() is None):
            return
        if time.monotonic() < self._started + RESTART_S:
            return
        self._started = time.monotonic()
        self._end()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.watcher", "--home", self._store.home, "--poll-s", str(self._poll_s)],
            env={**environment(), "MLFLOW_TRACKING_URI": self._store.uri},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )

    def let_go(self) -> None:
        """Ends the watcher, and leaves it to another replica to start one."""
        self._end()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _end(self) -> None:
        if self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._process.kill()
            self._process.wait()
            self._process = None


class Follower:
    """Keeps the models of a server those of the registry, as far as the store has them."""

    def __init__(self, store: Store, stored: list[Stored], options: Options, load: Loader | None = None) -> None:
        """Takes the models that the replica was started with; which version of each is the store's to say.

        options: the server's, which tries models as they say. load: how a model comes into memory, where it is not
        models.load.
        """
        self._load = load or models.load
        self._store = store
        self._own = {one.service: one.task for one in stored}
        self._options = options
        self._leash = Leash(store, options.poll_s)
        self._loads = Loads(self._load)
        self._candidates = Candidates(store, self._own, self._loads)
        self._server: Server | None = None
        self._refused: dict[str, tuple[Stored, float]] = {}
        self._complaints: dict[str, str] = {}
        self._ended: dict[str, str] = {}
        """The rollout of each task that ended last, by its id."""
        self._users: list[int] = []
        self._task: asyncio.Task[None] | None = None

    def load(self) -> list[Loaded]:
        """Loads what the store has, waiting for the watcher where it has nothing; blocks.

        Raises ValueError when a model neither comes in time nor can be loaded, nor an earlier one in its place.
        """
        self._users = [self._store.use(task) for task in self._own]
        state = self._store.state()
        self._complaints = dict(state.refused)
        self._ended = {task: ended[0] for task, ended in state.ended.items()}
        found = [self._first(task) for task in self._own]
        self._leash.hold()  # so that the watcher imports mlflow, which takes seconds, while the models warm up
        return found

    async def follow(self, server: Server) -> None:
        """Follows from now on; to be called once all models answer."""
        self._server = server
        for task in self._refused:  # at the start, when there was nothing to count with
            server.slots[task].count("refused")
        await asyncio.to_thread(self._confirm, [slot.current.loaded for slot in server.slots.values()])
        self._task = asyncio.create_task(self._follow(server))

    async def close(self) -> None:
        """Follows no more and ends the watcher."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._server:
            await self._candidates.close(self._server.slots.values())
        await asyncio.to_thread(self._leash.let_go)
        for descriptor in self._users:
            os.close(descriptor)
        self._users = []

    def _first(self, task: str) -> Loaded:
        """Loads the version that the registry wants; failing that, the one that answered last."""
        wanted, good = self._wait(task), self._good(task)
        try:
            loaded = self._load(wanted)
            if good and good != wanted:
                tryout.try_out(loaded, self._options)
            return loaded
        except Exception as problem:
            log.warning("%s version %s is refused: %s", task, wanted.version, problem)
            if good and good != wanted:
                self._refuse(wanted, problem)
                return self._load(good)
            if not isinstance(problem, Corrupt):
                raise
            self._store.discard(wanted)  # it was whole when it came, so the disk is at fault
        return self._load(self._wait(task))

    def _wait(self, task: str) -> Stored:
        began = remind_at = time.monotonic()
        while (found := self._store.current(task)) is None:
            self._leash.hold()
            waited_s = time.monotonic() - began
            if waited_s > self._store.patience_s:
                raise ValueError(
                    f"no model of {task} has come from the registry within {waited_s:.0f} s: {self._why(task)}"
                )
            if time.monotonic() > remind_at + REMIND_S:
                remind_at = time.monotonic()
                log.warning("%s waits for a model to come from the registry: %s", task, self._why(task))
            time.sleep(LOOK_S)
        return replace(found, task=self._own[task])

    def _why(self, task: str) -> str:
        state = self._store.state()
        said = state.refused.get(task) or state.reason
        unnamed = f"it answers and names no champion; `eagerly train {task}` makes one"
        return said or (unnamed if task in state.unnamed else "its champion has not come yet")

    def _good(self, task: str) -> Stored | None:
        found = self._store.good(task)
        return found and replace(found, task=self._own[task])

    async def _follow(self, server: Server) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look(server)
            except Exception:
                log.exception("following the registry failed; it goes on")

    async def _look(self, server: Server) -> None:
        """Takes up what is new; files are read on a thread, as a disk may be slow."""
        told, state, wanted = await asyncio.to_thread(self._read)
        server.registry_up.set(state.up)
        for task, slot in server.slots.items():
            slot.champion.set(task not in state.unnamed)
            complaint = state.refused.get(task, "")
            if complaint and complaint != self._complaints.get(task):
                slot.count("refused")
            self._complaints[task] = complaint
            self._count_end(slot, state)
            stored = wanted[task]
            if stored and not _is(stored, slot.current.loaded) and not self._is_refused(stored):
                await self._take(stored, slot)
            await self._candidates.look(slot, told.get(task))

    def _count_end(self, slot: Slot, state: State) -> None:
        """Counts a rollout that has ended, once."""
        if slot.name in state.ended:
            which, outcome = state.ended[slot.name]
            if which != self._ended.get(slot.name):
                slot.counters.ends[outcome].add(1)
            self._ended[slot.name] = which

    def _read(self) -> tuple[dict[str, Told], State, dict[str, Stored | None]]:
        """Reads rollouts first: one that ended with its candidate as champion is gone only once that is current."""
        self._leash.hold()
        told = self._candidates.told()
        found = {task: self._store.current(task) for task in self._own}
        wanted = {task: one and replace(one, task=self._own[task]) for task, one in found.items()}
        return told, self._store.state(), wanted

    async def _take(self, stored: Stored, slot: Slot) -> None:
        """Loads a model beside the one that answers and swaps them; one that fails changes nothing."""
        task = stored.service
        await self._candidates.begun(stored)
        try:
            if slot.trial and _is(stored, slot.trial.candidate.loaded):
                await slot.adopt()
            else:
                await slot.swap(await self._loads.bring(stored))
        except Exception as problem:
            self._refuse(stored, problem)
            slot.count("refused")
            served = slot.current.loaded.version
            log.exception("%s version %s is refused, version %s serves on", task, stored.version, served)
            return
        slot.count("swapped")
        log.warning("%s is now version %s, digest %s", task, stored.version, stored.digest[:12])
        await asyncio.to_thread(self._store.confirm, stored)

    def _refuse(self, stored: Stored, problem: Exception) -> None:
        """Notes when a model may be tried again: never, if it is wrong.

        It was whole when it came here: a folder that is not is no fault of the model's, and may be brought anew.
        """
        is_wrong = isinstance(problem, ValueError) and not isinstance(problem, Corrupt)
        again = float("inf") if is_wrong else time.monotonic() + AGAIN_S
        self._refused[stored.service] = stored, again

    def _is_refused(self, stored: Stored) -> bool:
        refused, again = self._refused.get(stored.service, (None, 0.0))
        return refused == stored and time.monotonic() < again

    def _confirm(self, served: list[Loaded]) -> None:
        for loaded in served:
            found = self._store.current(loaded.name)
            if found and _is(found, loaded):
                self._store.confirm(found)


def environment() -> dict[str, str]:
    """The environment of a Python process of ours: this one's, with what it can import."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _is(stored: Stored, loaded: Loaded) -> bool:
    return (stored.version, stored.run_id, stored.digest) == (loaded.version, loaded.run_id, loaded.digest)
