"""What a node keeps of a rollout: what its watcher tells the replicas, and what each replica has counted.

    <task>/rollout.json          the rollout and where its candidate lies; the watcher writes it
    <task>/seats/<n>.json        what a replica has counted; the replica that sits there writes it
    <task>/seats/<n>.lock        held by that replica: the next one to sit there goes on counting

All in the folder that store.py describes.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.policy import Rollout, Tally
from services.models import Stored
from services.store import Store, replace_file

MOST_SEATS = 1024


@dataclass(frozen=True)
class Told:
    """What the watcher tells the replicas of its node."""

    rollout: Rollout
    """Not running once it has ended here, even while the registry could not be told yet."""
    candidate: Stored | None
    """None for one that could not be had."""


@dataclass
class Count:
    """What one replica has counted of one rollout."""

    id: str
    """The rollout's."""
    tally: Tally = field(default_factory=Tally)
    stopped: str = ""
    """Why this replica uses the candidate no more."""


def told(store: Store, task: str) -> Told | None:
    """Reads what the replicas are told; None when there is nothing, or nothing that can be read."""
    try:
        facts = json.loads((store.folder / task / "rollout.json").read_text())
        rollout, candidate = Rollout.from_json(facts["rollout"]), facts["candidate"]
        return Told(rollout, candidate and Stored(**candidate))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def tell(store: Store, task: str, what: Told | None) -> None:
    """Tells the replicas; None that there is no rollout any more."""
    path = store.folder / task / "rollout.json"
    if what is None:
        path.unlink(missing_ok=True)
    else:
        candidate = what.candidate and asdict(what.candidate)
        replace_file(path, {"rollout": what.rollout.to_json(), "candidate": candidate})


def counts(store: Store, task: str, rollout: Rollout) -> list[Count]:
    """Reads what the replicas of this node have counted of a rollout, those that are gone included."""
    paths = sorted((store.folder / task / "seats").glob("*.json"))
    found = [_read(json_text) for path in paths if (json_text := _text(path))]
    return [count for count in found if count and count.id == rollout.id]


class Seat:
    """A replica's place to write what it has counted; for one thread at a time."""

    def __init__(self, store: Store, task: str) -> None:
        """Takes the first place that no living replica has; raises OSError when the disk does not allow it."""
        self._folder = store.folder / task / "seats"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._number, self._lock = next(self._free())

    def count(self, rollout: Rollout) -> Count:
        """Reads what was counted here of a rollout before, perhaps by a replica that is gone."""
        found = _read(_text(self._folder / f"{self._number}.json"))
        return found if found and found.id == rollout.id else Count(rollout.id)

    def write(self, count: Count) -> None:
        """Writes down what has been counted."""
        replace_file(self._folder / f"{self._number}.json", asdict(count))

    def close(self) -> None:
        """Leaves the place to another replica."""
        os.close(self._lock)

    def _free(self) -> Iterator[tuple[int, int]]:
        for number in range(MOST_SEATS):
            descriptor = os.open(self._folder / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield number, descriptor
                return
            os.close(descriptor)
        raise OSError(f"all {MOST_SEATS} seats in {self._folder} are taken")


def _text(path: Any) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _read(text: str) -> Count | None:
    try:
        facts = json.loads(text)
        return Count(str(facts["id"]), Tally.of(facts["tally"]), str(facts["stopped"]))
    except (ValueError, TypeError, KeyError):
        return None
