"""The order in which jobs get a cluster's processors: by priority, then by submission; state in a database.

A detached actor on the head keeps it, made by the first job that asks. A job asks for its turn twice a second; one
that has not been heard of for a while has died, and what it held is free again.
"""

import contextlib
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines import capacity, job_log
from pipelines.settings import Launch

ACTOR, NAMESPACE = "eagerly-turns-2", "eagerly"
"""The number is that of how its methods are called."""
ASK_SECONDS, BEAT_SECONDS, SILENCE_SECONDS = 0.5, 3.0, 15.0
ANSWER_SECONDS, SILENT_SECONDS = 10.0, 10.0
"""How long one answer is waited for, and after what time without any that is said."""
KINDS = ("CPU", "GPU")
"""What a worker takes one of, without a GPU and with one."""
TAKE_SECONDS = 30.0
"""How long a job that was just admitted may take to hold its processors; the cluster shows them as free until then."""
TABLE = """CREATE TABLE IF NOT EXISTS turns (
    name TEXT PRIMARY KEY, priority INTEGER, since REAL, workers INTEGER, gpu INTEGER, admitted INTEGER, heard REAL
)"""


@dataclass(frozen=True)
class Need:
    """A job that wants to run."""

    name: str
    priority: int
    since: float
    """When it was submitted (seconds since 1970)."""
    workers: int
    gpu: bool


class Silent(Exception):
    """The actor does not answer now, as after its death or with a full disk; says why."""


class Book:
    """Who runs and who waits, in a database that outlives the process."""

    def __init__(self, path: Path, now: float) -> None:
        """Opens the database; who is in it is given time to be heard of again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(TABLE)
        self._database.execute("UPDATE turns SET heard = ?", (now,))
        self._coming: dict[str, tuple[float, float]] = {}  # when a job was admitted; what is free once it has its own

    def ask(self, need: Need, total: Mapping[str, float], free: Mapping[str, float], now: float) -> int:
        """Says whether a job may run, 0, or its place among those that wait, from 1.

        `total` and `free` are the cluster's CPUs and GPUs, of which each worker takes a GPU or else a CPU; what others
        than our jobs use is not free. The first in the order runs when it fits, and none overtakes it, however small.
        Where none runs the first does in any case, since a cluster that grows does so only for what was asked of it.
        """
        self._database.execute("DELETE FROM turns WHERE heard < ?", (now - SILENCE_SECONDS,))
        self._note(need, False, now)
        self._admit(total, free, now)
        waiting = [name for name, *_ in self._waiting()]
        return waiting.index(need.name) + 1 if need.name in waiting else 0

    def beat(self, need: Need, now: float) -> None:
        """Notes that a job still runs, though it was taken for dead."""
        self._note(need, True, now)

    def leave(self, name: str) -> None:
        """Frees what a job held."""
        self._database.execute("DELETE FROM turns WHERE name = ?", (name,))

    def order(self) -> list[tuple[str, bool]]:
        """Lists the jobs that run, then those that wait, in their order, and whether each runs."""
        running = self._database.execute("SELECT name FROM turns WHERE admitted ORDER BY since")
        return [(name, True) for (name,) in running] + [(name, False) for name, *_ in self._waiting()]

    def _note(self, need: Need, runs: bool, now: float) -> None:
        """Writes a job down; one that is there keeps its place, and its share unless it asks for more."""
        self._database.execute(
            "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET heard = excluded.heard, "
            "priority = excluded.priority, workers = excluded.workers, gpu = excluded.gpu, admitted = "
            "MAX(admitted AND workers >= excluded.workers AND gpu = excluded.gpu, excluded.admitted)",
            (need.name, need.priority, need.since, need.workers, int(need.gpu), int(runs), now),
        )

    def _waiting(self) -> list[tuple[str, int, int]]:
        return self._database.execute(
            "SELECT name, workers, gpu FROM turns WHERE NOT admitted ORDER BY priority DESC, since, name"
        ).fetchall()

    def _admit(self, total: Mapping[str, float], free: Mapping[str, float], now: float) -> None:
        self._coming = {name: one for name, one in self._coming.items() if now - one[0] < TAKE_SECONDS}
        running = self._database.execute("SELECT name, workers, gpu FROM turns WHERE admitted").fetchall()
        unheld, unused = ({kind: there.get(kind, 0.0) for kind in KINDS} for there in (total, free))
        for name, workers, gpu in running:
            kind = KINDS[gpu]
            unheld[kind] -= workers
            if name in self._coming and free.get(kind, 0.0) > self._coming[name][1]:
                unused[kind] -= workers
        is_first = not running
        for name, workers, gpu in self._waiting():
            kind = KINDS[gpu]
            if not is_first and min(unheld[kind], unused[kind]) < workers:
                return
            is_first = False
            unheld[kind] -= workers
            unused[kind] -= workers
            self._database.execute("UPDATE turns SET admitted = 1 WHERE name = ?", (name,))
            self._coming[name] = (now, unused[kind])


class Turns:
    """The actor: the book, and the cluster it is about."""

    def __init__(self) -> None:
        """Opens the book in the session's folder, which lives as long as the cluster."""
        import ray

        session = Path(ray._private.worker._global_node.get_session_dir_path())  # type: ignore[union-attr]
        self._book = Book(session / "eagerly" / "turns.db", time.time())

    def ask(self, need: dict[str, Any]) -> int:
        """Answers as Book.ask does."""
        import ray

        return self._book.ask(Need(**need), ray.cluster_resources(), ray.available_resources(), time.time())

    def beat(self, need: dict[str, Any]) -> None:
        """Notes that a job still runs."""
        self._book.beat(Need(**need), time.time())

    def leave(self, name: str) -> None:
        """Frees what a job held."""
        self._book.leave(name)

    def order(self) -> list[tuple[str, bool]]:
        """Lists who runs and who waits."""
        return self._book.order()


def actor() -> Any:
    """Finds the actor, or makes it on the head; it needs no processor of the cluster's."""
    import ray

    made = ray.remote(num_cpus=0, max_restarts=-1)(Turns)
    there = {"name": ACTOR, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return made.options(**there, resources={"node:__internal_head__": 0.001}).remote()


def is_queued() -> bool:
    """Says whether this process is the driver of a submitted job, which waits for its turn.

    Where Kueue keeps the order, the job has a name and no priority.
    """
    return bool(os.environ.get("EAGERLY_JOB")) and "EAGERLY_JOB_PRIORITY" in os.environ


@contextlib.contextmanager
def turn(
    launch: Launch,
    meanwhile: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Iterator[None]:
    """Waits until it is a submitted job's turn, and holds the cluster's share for it while the block runs.

    A job that has to wait does `meanwhile`, which may raise, once; one that is stopped as it waits leaves at once. One
    whose launch waits gets its turn before the cluster has its workers' room, where no other runs; `say` gets what it
    waits for then, as from capacity.find. Does nothing outside a submitted job, and where Kueue keeps the order.
    """
    if not is_queued():
        yield
        return
    name = os.environ["EAGERLY_JOB"]
    since = float(os.environ.get("EAGERLY_JOB_SINCE") or time.time())
    workers = int(str(launch.workers).partition(":")[0])
    need = Need(name, int(os.environ["EAGERLY_JOB_PRIORITY"]), since, workers, launch.gpu)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(need, ended), daemon=True)
    try:
        _wait(need, meanwhile)
        thread.start()
        if launch.wait:
            capacity.find(launch, True, say)
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
        with contextlib.suppress(Exception):
            _answer(lambda turns: turns.leave.remote(name))


def _wait(need: Need, meanwhile: Callable[[], None]) -> None:
    said, is_done = -1, False
    while (position := _ask(need)) != 0:
        if position != said:
            said = position
            print(job_log.line({"phase": "waiting", "position": position}), file=sys.stderr, flush=True)
        if not is_done:
            is_done = True
            meanwhile()
        time.sleep(ASK_SECONDS)
    print(job_log.line({"phase": "starting", "position": 0}), file=sys.stderr, flush=True)


def _ask(need: Need) -> int:
    """Asks until there is an answer; says once why there is none, after a while."""
    began, has_said = time.monotonic(), False
    while True:
        try:
            return _answer(lambda turns: turns.ask.remote(asdict(need)))
        except Silent as problem:
            if not has_said and time.monotonic() - began >= SILENT_SECONDS:
                has_said = True
                sentence = f"the cluster's queue does not answer, and is asked again until it does: {problem}"
                print(f"eagerly: {sentence}", file=sys.stderr, flush=True)
        time.sleep(ASK_SECONDS)


def _beat(need: Need, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(Exception):  # the cluster may be going down, and training knows better
            _answer(lambda turns: turns.beat.remote(asdict(need)))


def _answer(call: Callable[[Any], Any]) -> Any:
    """Asks the actor. Raises Silent when it is being started again, as after its death, or its disk is full."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

    try:
        return ray.get(call(actor()), timeout=ANSWER_SECONDS)
    except (RayActorError, GetTimeoutError, RayTaskError) as problem:
        if isinstance(problem, RayTaskError) and not isinstance(problem.cause, sqlite3.Error):
            raise
        raise Silent(str(problem).strip().splitlines()[-1].strip()) from problem
