"""The node's watcher: a process that fills the local store from the registry, so that replicas never import mlflow.

    python -m services.watcher --home FOLDER            follows what replicas of this node serve, until stdin ends
    python -m services.watcher --home FOLDER --once ./mytask sentiment      prints the champions as lines of JSON

MLFLOW_TRACKING_URI names the registry. A registry that is away, slow or talks nonsense changes nothing in the store,
and neither does a version that is refused: what served last serves on.
"""

import argparse
import contextlib
import functools
import json
import logging
import os
import re
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from pipelines import artifact, registry, tasks, tracking
from pipelines.registry import Aim, Version
from services.conductor import Conductor
from services.downloads import DOWNLOAD_S, Downloads, Underway
from services.models import Stored
from services.patience import Overdue, pause_s, within
from services.store import State, Store

log = logging.getLogger(__name__)

CALL_S = 8.0
"""Seconds that the registry has to answer; the first time longer, as its own imports and migrations take seconds."""
FIRST_CALL_S = 60.0
ROLLOUT_S = 60.0
"""Seconds that a round's calls about a rollout may take, together."""
START_S = 20.0
"""Seconds that a start waits for the registry when there is a model to serve without it."""
MOST_LEFT = 8
"""Most downloads that hang, though they were given up; with more the process ends, and a replica starts the next."""
LONGEST_PAUSE_S = 3.0
"""Longest wait between two tries of a registry that is away, so that its return is seen within seconds."""
UNREADABLE_S, CORRUPT_S = 2.0, 60.0
"""Seconds until an artifact is tried again that could not be read, doubled each time; or that was refused."""
MLFLOW = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""MLflow's own patience is minutes; the watcher tries again by itself, and nobody watches its progress."""


@dataclass(frozen=True)
class Refusal:
    """A version that the store does not take."""

    aim: Aim
    tries_count: int
    retry_at: float
    """On the clock of time.monotonic()."""


class Watcher:
    """Follows tasks, round by round."""

    def __init__(self, store: Store) -> None:
        """Knows nothing yet; the first round asks for everything."""
        self._store = store
        self._call_s = FIRST_CALL_S
        self._taken: dict[str, tuple[Aim, Stored]] = {}
        self._refused: dict[str, Refusal] = {}
        self._unnamed: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._stumbled = ""
        self._up: bool | None = None
        self._downloads = Downloads(functools.partial(bring, store))
        self._conductor = Conductor(store, self._bring, sentence)

    @property
    def hanging_count(self) -> int:
        """Downloads that were given up and have not ended."""
        return self._downloads.left_count

    def look(self) -> bool:
        """Asks the registry once for every task that is served; returns whether it answered."""
        reason, tasks_here = "", sorted(self._store.used(), key=lambda task: task == self._stumbled)
        self._downloads.keep(tasks_here)
        try:
            for self._stumbled in tasks_here:  # where it fails it ends, to begin the next round with the others
                with self._downloads.round(self._stumbled):
                    self._follow(self._stumbled)
            self._call_s, self._stumbled = CALL_S, ""
        except Exception as problem:
            reason = sentence(problem)
        if self._up != (not reason):
            self._up = not reason
            log.warning("the registry %s", f"is away, what serves serves on: {reason}" if reason else "answers")
        self._tell(reason)
        return not reason

    def _follow(self, task: str) -> None:
        """Asks what a task's model is to be, sees to its champion, and then to its rollout."""
        with within(self._call_s):
            aim = registry.aim(task)
        self._lead(task, aim)
        if aim is not None:
            with within(ROLLOUT_S):
                self._conductor.look(task, aim)

    def _lead(self, task: str, aim: Aim | None) -> None:
        """Takes up the version that a task's alias names, unless it is here or was refused."""
        if aim is None or aim.champion is None:
            if task not in self._unnamed:
                log.warning("%s has no champion in the registry; what serves serves on", task)
            self._unnamed.add(task)
            return
        self._unnamed.discard(task)
        taken, refused = self._taken.get(task), self._refused.get(task)
        if taken and taken == (aim, self._store.current(task)):
            self._forgive(task)
            return
        if refused and refused.aim == aim and time.monotonic() < refused.retry_at:
            return
        with within(self._call_s):
            version = registry.read(task, aim.champion)
        try:
            stored = self._downloads.bring(version)
        except Underway:
            return
        except Exception as problem:
            self._refuse(task, aim, problem)
        else:
            self._take(aim, stored)

    def _take(self, aim: Aim, stored: Stored) -> None:
        task = stored.service
        self._store.publish(stored)
        self._taken[task] = aim, stored
        self._forgive(task)
        log.info("%s version %s is here, digest %s", task, stored.version, stored.digest[:12])
        self._store.tidy(task, *self._conductor.on_trial(task))

    def _forgive(self, task: str) -> None:
        """Forgets what was refused of a task, once another version is wanted and here."""
        self._refused.pop(task, None)
        if self._reasons.pop(task, None):
            self._tell("")

    def _bring(self, task: str, number: int) -> Stored:
        """Brings a version that is no champion yet; raises Underway while it is on its way."""
        with within(self._call_s):
            version = registry.read(task, number)
        return self._downloads.bring(version)

    def _refuse(self, task: str, aim: Aim, problem: Exception) -> None:
        """Notes why a version is not taken, once, and when to look at it again."""
        before = self._refused.get(task)
        tries_count = before.tries_count + 1 if before and before.aim == aim else 1
        wrong = isinstance(problem, ValueError)
        left_s = CORRUPT_S if wrong else pause_s(UNREADABLE_S, tries_count, CORRUPT_S)
        self._refused[task] = Refusal(aim, tries_count, time.monotonic() + left_s)
        if tries_count == 1:
            self._reasons[task] = f"version {aim.champion}: {sentence(problem)}"
            log.error("%s %s; refused, what serves serves on", task, self._reasons[task])
            self._tell("")

    def _tell(self, reason: str) -> None:
        """Tells the replicas; the disk may be full, which must not end the watching."""
        try:
            self._store.tell(
                State(not reason, reason, dict(self._reasons), sorted(self._unnamed), dict(self._conductor.ended))
            )
        except OSError as problem:
            log.error("the state of the registry cannot be written: %s", problem)  # noqa: TRY400 - no traceback


def bring(store: Store, version: Version) -> Stored:
    """Brings a version into the store, unless it lies there already, and verifies it.

    Raises ValueError when it is not what the registry says, and what MLflow raises when it cannot be read.
    """
    folder = store.place(version.name, version.version, version.digest)
    stored = Stored(version.name, str(folder), version.version, version.run_id, version.digest)
    if folder.is_dir():
        with contextlib.suppress(ValueError):
            _verify(folder, version)
            return stored
        store.discard(stored)
    with store.incoming(version.name) as model:
        registry.download(version, model)
        _verify(model, version)
        try:
            model.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    return stored


def _verify(folder: Path, version: Version) -> None:
    digest = artifact.verify(folder)
    if digest != version.digest:
        said = f"the registry says that {version.name} version {version.version} is {version.digest}"
        raise ValueError(f"{said}; it is {digest}")


def fetch(store: Store, word: str) -> tuple[Stored, str]:
    """Brings the champion of a task into the store for a start, and says what went wrong on the way.

    word: a task's name, or the folder of a user's own, whose name the registry knows its model by.
    The last good model stands in for a champion that cannot be had; raises ValueError when there is none.
    """
    found = tasks.find(word)
    own = "" if word in tasks.TASKS else str(found.folder)
    last = store.good(found.name) or store.current(found.name)
    try:
        with within(DOWNLOAD_S if last is None else START_S):
            stored, note = bring(store, _champion(found.name)), ""
    except Exception as problem:
        reason = sentence(problem)
        if last is None and isinstance(problem, ValueError):
            raise
        if last is None:
            raise ValueError(f"the registry does not answer, and no {word} model was served before: {reason}") from None
        stored, note = last, f"{word} stays at version {last.version}, the last that served here: {reason}"
    else:
        store.publish(stored)
    return replace(stored, task=own), note


def _champion(task: str) -> Version:
    """Asks with two calls; raises ValueError when there is no champion, saying how to get one."""
    aim = registry.aim(task)
    return registry.champion(task) if aim is None or aim.champion is None else registry.read(task, aim.champion)


def sentence(problem: Exception) -> str:
    """Says in one line what went wrong, without passwords in addresses."""
    text = " ".join(str(problem).split())
    kind = "" if isinstance(problem, ValueError | Overdue) and text else f"{type(problem).__name__}: "
    return re.sub(r"//[^/@\s]*@", "//", f"{kind}{text}")[:500]


def watch(store: Store, poll_s: float) -> NoReturn:
    """Follows the registry for ever."""
    watcher = Watcher(store)
    failed_count = 0
    while True:
        failed_count = 0 if watcher.look() else failed_count + 1
        if watcher.hanging_count > MOST_LEFT:
            log.error("%d downloads hang that were given up; the watcher ends, to be started anew", MOST_LEFT + 1)
            os._exit(1)
        time.sleep(pause_s(poll_s, failed_count, max(poll_s, LONGEST_PAUSE_S)))


def main(words: list[str]) -> int:
    """Runs the module; with --once, one sentence on standard error and 2 when a champion cannot be had."""
    parser = argparse.ArgumentParser(prog="services.watcher")
    parser.add_argument("--home", required=True)
    parser.add_argument("--poll-s", type=float, default=1.0)
    parser.add_argument("--once", nargs="*")
    arguments = parser.parse_args(words)
    store = Store(arguments.home, tracking.uri())
    for name, value in MLFLOW.items():
        os.environ.setdefault(name, value)
    if arguments.once is None:
        threading.Thread(target=_leash, daemon=True).start()
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
        log.setLevel(logging.INFO)
        watch(store, arguments.poll_s)
    try:
        found = [fetch(store, word) for word in arguments.once]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for stored, note in found:
        print(json.dumps({"stored": asdict(stored), "note": note}), flush=True)
    return 0


def _leash() -> None:
    """Ends this process when the replica that started it is gone, in whatever way it went."""
    sys.stdin.buffer.read()
    os._exit(0)


def process(words: list[str]) -> NoReturn:
    """Runs the module as a process, and ends it; waits for no thread of a download that was given up."""
    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    process(sys.argv[1:])
