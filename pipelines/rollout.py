"""Starts, reads and ends rollouts; what is known of one lies in tags of the registered model, for any machine to ask.

    eagerly.rollout                 the rollout that runs or ran last, as JSON
    eagerly.rollout.node.<node>     what a node has counted of it, as JSON; its watcher writes it

MLflow has no compare-and-set. So whoever ends a rollout reads it once more just before, and leaves one alone that has
ended or been followed by another; who promotes reads it once more after champion has moved. Two who end it for
different reasons at the same time are the only race left, and then the later reason stands.
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from pipelines import registry
from pipelines.policy import Limits, Rollout, State, Tally

TAG = "eagerly.rollout"
NODE = "eagerly.rollout.node."
MOST_NODES = 64
"""Nodes whose figures have room in the tags; those of others are judged by these nodes alone."""
MOST_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class Report:
    """What a node has counted."""

    id: str
    """The rollout's."""
    replicas: int = 0
    tally: Tally = field(default_factory=Tally)
    problem: str = ""
    """What keeps the node from trying the candidate, for now."""


def running(aim: registry.Aim | None) -> Rollout | None:
    """Reads the rollout that runs from what the registry says; None when there is none that can be read."""
    found = latest(aim)
    return found if found and found.state == "running" else None


def latest(aim: registry.Aim | None) -> Rollout | None:
    """Reads the rollout that runs or ran last."""
    if aim is None or TAG not in aim.tags:
        return None
    try:
        return Rollout.from_json(aim.tags[TAG])
    except ValueError:
        return None


def reports(tags: Mapping[str, str], rollout: Rollout) -> dict[str, Report]:
    """Reads what the nodes have counted of a rollout, by node."""
    found = {}
    for key, value in tags.items():
        if key.startswith(NODE):
            try:
                facts = json.loads(value)
                report = Report(**{**facts, "tally": Tally.of(facts["tally"])})
            except (ValueError, TypeError, KeyError):
                continue
            if report.id == rollout.id:
                found[key.removeprefix(NODE)] = report
    return found


def report(task: str, node: str, told: Report, aim: registry.Aim) -> None:
    """Writes what a node has counted, if there is room for it."""
    key = NODE + node
    if key in aim.tags or sum(tag.startswith(NODE) for tag in aim.tags) < MOST_NODES:
        registry.tag(task, key, json.dumps(asdict(told)))


def start(task: str, version: int, mode: Literal["shadow", "canary"], share: float, limits: Limits) -> Rollout:
    """Starts a rollout.

    Raises ValueError when there is no such model, version or champion, when the version is the champion, and while
    another rollout runs.
    """
    aim, found = _aim(task), registry.get(task, version)
    if (before := running(aim)) is not None:
        ways = f"`eagerly rollout promote {task}` or `eagerly rollout abort {task}` ends it"
        raise ValueError(f"a rollout of {task} version {before.version} ({before.mode}) is running; {ways}")
    champion = registry.champion(task)
    if champion.version == found.version:
        numbers = [str(one.version) for one in registry.versions(task) if one.version != version]
        there = f"it has also {', '.join(numbers)}" if numbers else "there is no other; `eagerly train` makes one"
        raise ValueError(f"{task} version {version} is the champion already; --to another version: {there}")
    for key in aim.tags:
        if key.startswith(NODE):
            registry.tag(task, key, None)
    made = Rollout(uuid.uuid4().hex[:12], version, champion.version, mode, share, limits, time.time())
    registry.tag(task, TAG, made.to_json())
    stands = running(registry.aim(task))
    if stands is None or stands.id != made.id:
        raise ValueError(f"another rollout of {task} was started at the same time; `eagerly rollout status {task}`")
    return made


def promote(task: str, force: bool = False) -> tuple[Rollout, registry.Version]:
    """Makes the candidate champion and ends the rollout; the champion before stays in the history.

    Raises ValueError when there is no rollout, when it has ended otherwise, also meanwhile, and for a candidate that
    was rolled back unless forced.
    """
    aim = _aim(task)
    found = latest(aim)
    if found is None or found.state not in ("running", "rolled back"):
        raise ValueError(f"{_none(task, found)}; `eagerly models promote {task} VERSION` moves champion without one")
    if found.state == "rolled back" and not force:
        raise ValueError(
            f"{task} version {found.version} was rolled back: {found.reason}; "
            f"`eagerly rollout promote {task} --force` promotes it all the same"
        )
    if found.state == "running" and aim.champion not in (found.champion, found.version):
        raise ValueError(
            f"champion of {task} was moved to version {aim.champion} since the rollout of version {found.version} "
            f"began, which ends it; `eagerly rollout start {task} --to {found.version}` compares with that one"
        )
    version = registry.promote(task, found.version)
    _settle(task, found, aim.champion)
    done = found.ended("promoted", "by `eagerly rollout promote`" + (" --force" if force else ""))
    registry.tag(task, TAG, done.to_json())
    return done, version


def abort(task: str) -> Rollout:
    """Ends the rollout; the champion serves on. Raises ValueError when none runs."""
    found = latest(_aim(task))
    if found is None or found.state != "running":
        raise ValueError(f"{_none(task, found)}; there is nothing to abort")
    reason = "by `eagerly rollout abort`"
    if not end(task, found, "aborted", reason):
        raise ValueError(f"{_none(task, latest(_aim(task)))}, since a moment ago; there is nothing to abort")
    return found.ended("aborted", reason)


def end(task: str, rollout: Rollout, state: State, reason: str) -> bool:
    """Ends a rollout if it still runs; returns whether it did, so that of many who find the same one tells it."""
    stands = running(registry.aim(task))
    if stands is None or stands.id != rollout.id:
        return False
    registry.tag(task, TAG, stands.ended(state, reason[:MOST_REASON_CHARACTERS]).to_json())
    return True


def _settle(task: str, found: Rollout, before: int | None) -> None:
    """Looks again once champion has moved, which takes a dozen calls: moves it back if a node rolled back meanwhile.

    Raises ValueError then, and leaves champion alone if it was moved once more.
    """
    aim = _aim(task)
    now = latest(aim)
    if now is not None and now.id == found.id and now.state in (found.state, "promoted"):
        return
    if aim.champion == found.version != before and before is not None:
        registry.rollback(task)
    what = f"it is {now.state}: {now.reason}" if now is not None and now.id == found.id else "another one was started"
    raise ValueError(f"the rollout of {task} version {found.version} ended while it was promoted: {what}")


def _aim(task: str) -> registry.Aim:
    registry.require(task)
    aim = registry.aim(task)
    assert aim is not None, task
    return aim


def _none(task: str, found: Rollout | None) -> str:
    if found is None:
        return f"no rollout of {task} runs, nor has one"
    return f"no rollout of {task} runs: the last, of version {found.version}, is {found.state}"
