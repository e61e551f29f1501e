"""`eagerly jobs`: what became of submitted jobs, by name; from the cluster, or from MLflow once it is gone."""

import contextlib
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eagerly import flags, steps, table, usage
from eagerly.commands.submit import find_address
from eagerly.usage import Verb

if TYPE_CHECKING:
    from pipelines.history import Kept
    from pipelines.jobs import Cluster, Job

VERBS = {
    "list": Verb("", "Lists the jobs, the newest first.", has_flags=True),
    "status": Verb("NAME", "Says how a job goes on, where it is in MLflow, and what to do next.", has_flags=True),
    "logs": Verb("[-f] NAME", "Shows what a job has written.", has_flags=True),
    "stop": Verb("NAME", "Ends a job, which writes a last checkpoint if it can.", has_flags=True),
    "wait": Verb("[--timeout SECONDS] NAME", "Waits until a job has ended.", has_flags=True),
}
HELP = usage.page(
    "eagerly jobs",
    VERBS,
    """each with --address http://head:8265 unless RAY_ADDRESS or `eagerly cluster up` says which cluster. When it does
not answer, list, status and logs show what is kept in MLflow (MLFLOW_TRACKING_URI). wait ends with 0 when the job is
done, with 1 when it failed or was stopped, with 2 when the cluster stays away, and with 3 when it still runs.""",
)
STOP_SECONDS = 8.0
STILL_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class All:
    """Lists the jobs by name, the newest first, with progress, time left, restarts and MLflow run."""

    address: str = ""
    """Of the cluster's dashboard, such as http://head:8265."""


@dataclass(frozen=True, kw_only=True)
class One(All):
    """Says how a job goes on, where it is in MLflow, and what to do next."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """Name of the job."""


@dataclass(frozen=True, kw_only=True)
class Logs(One):
    """Shows what a job has written."""

    follow: Annotated[bool, tyro.conf.arg(aliases=["-f"])] = False
    """Goes on showing until the job ends."""


@dataclass(frozen=True, kw_only=True)
class Stop(One):
    """Ends a job, which writes a last checkpoint if it can."""


@dataclass(frozen=True, kw_only=True)
class Wait(One):
    """Waits until a job has ended: 0 when it is done, 1 when it failed or was stopped, 3 when it still runs."""

    timeout: float = 0.0
    """Seconds to wait at most; 0 waits until the end."""


def main(words: list[str]) -> int:
    """Runs `eagerly jobs ...`. Raises ValueError with a sentence for everything the user can mend."""
    if not words:
        print(HELP)
        return 0
    verb, *rest = words
    if verb not in VERBS:
        raise usage.mistake(words, "eagerly jobs", VERBS)
    kinds: dict[str, tuple[type[All], Callable[[Any], int]]] = {
        "list": (All, _list),
        "status": (One, _status),
        "logs": (Logs, _logs),
        "stop": (Stop, _stop),
        "wait": (Wait, _wait),
    }
    kind, deed = kinds[verb]
    return deed(flags.parse(kind, rest, f"eagerly jobs {verb}"))


def _connect(which: All) -> "Cluster":
    from pipelines import jobs

    return jobs.connect(find_address(which.address))


def _reach(which: All) -> "Cluster | None":
    """Finds the cluster, or says that MLflow is asked instead."""
    try:
        return _connect(which)
    except ValueError as problem:
        _warn(f"{problem}; what MLflow keeps:")
        return None


def _find(there: "Cluster", name: str) -> "Job":
    if (found := there.job(name)) is None:
        names = [job.name for job in there.jobs()][:5]
        known = f"there are {', '.join(names)}" if names else "there are none"
        raise ValueError(f"the cluster at {there.address} has no job {name!r}; {known}")
    return found


def _list(which: All) -> int:
    from pipelines import history

    there = _reach(which)
    live = [there.heard(job) for job in there.jobs()] if there else []
    rows = [
        (job.name, job.task, job.status, *_progress(job.said, job.ended is not None), _briefly(job.said))
        for job in live
    ]
    if there is None:
        rows = [
            (
                one.name,
                one.task,
                one.status,
                *_progress(one.said, True),
                _briefly({"mlflow": one.run_id, "link": one.link}),
            )
            for one in history.jobs()
        ]
    print(table.render(("job", "task", "status", "steps", "left", "restarts", "submitted", "MLflow run"), rows))
    if rows:
        steps.show(f"eagerly jobs status {rows[0][0]}", f"eagerly jobs logs {rows[0][0]}")
    else:
        print("no jobs yet")
        steps.show("eagerly submit sentiment")
    return 0


def _progress(said: dict[str, Any], ended: bool) -> tuple[str, str, str, str]:
    place = f"{said['step']}/{said['steps']}" if said.get("steps") else ""
    left = "" if ended or said.get("left_s") is None else f"{said['left_s']} s"
    if not ended and (said.get("position") or said.get("waits_for")):
        place = f"place {said['position']} in the queue" if said.get("position") else said["waits_for"]
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(said["begun"])) if said.get("begun") else ""
    return place, left, str(said.get("restarts", "")), begun


def _briefly(said: dict[str, Any]) -> str:
    """Gives the address of a job's run on a server, or its id in a store that has no address."""
    link = str(said.get("link", ""))
    return link if link.startswith("http") else str(said.get("mlflow", ""))


def _link(said: dict[str, Any]) -> str:
    """Says where a job's run is, as its supervisor did; older ones named its id alone."""
    return str(said.get("link") or said.get("mlflow", ""))


def _status(which: One) -> int:
    there = _reach(which)
    job = there.job(which.name) if there else None
    if job is None:
        kept = _kept(which.name)
        _describe(kept.name, kept.task, kept.status, kept.said, kept.link)
        steps.show(f"eagerly jobs logs {kept.name}")
        return 0
    _describe(job.name, job.task, job.status, job.said, _link(job.said))
    lines = [line for line in job.message.splitlines() if not line.startswith("@")]
    if job.said.get("unrecorded"):
        print("reason     trained; not recorded, as MLflow did not take it: the model is in the run's folder")
    elif job.state == "FAILED" and lines:
        print(f"reason     {lines[-1]}")
    steps.show(*_onward(job))
    return 0


def _onward(job: "Job") -> list[str]:
    """Says what is done with a job next; a run that lacks its record alone is recorded where its folder is seen."""
    logs, run_dir = f"eagerly jobs logs {job.name}", str(job.said.get("unrecorded", ""))
    if run_dir and Path(run_dir).is_dir():
        return [f"eagerly record {shlex.quote(run_dir)}", logs]
    if job.state in ("FAILED", "STOPPED"):
        return [_again(job), logs] if job.said.get("has_run", True) else [logs]
    if job.state == "SUCCEEDED":
        return [f"eagerly models show {Path(job.task).name}", logs]
    return [f"eagerly jobs logs -f {job.name}", f"eagerly jobs stop {job.name}"]


def _again(job: "Job") -> str:
    """Gives the command that goes on with a job; a user's own task is below another folder in the job than here."""
    return f"eagerly submit {steps.task_word(job.folder or job.task)} --name {job.name} --again"


def _kept(name: str) -> "Kept":
    from pipelines import history, tracking

    if not (found := history.jobs(name)):
        raise ValueError(f"no job {name!r} is known, neither to a cluster nor to MLflow at {tracking.uri()!r}")
    return found[0]


def _describe(name: str, task: str, status: str, said: dict[str, Any], link: str) -> None:
    place, left, restarts, begun = _progress(said, status in ("done", "failed", "stopped"))
    facts = {"job": f"{name}, {task}, {status}", "steps": place, "left": left, "loss": said.get("loss", "")}
    facts |= {"restarts": restarts, "begun": begun, "run": said.get("run_dir", ""), "MLflow run": link}
    for what, value in facts.items():
        if value != "":
            print(f"{what:<10} {value}")


def _logs(which: Logs) -> int:
    from pipelines import following
    from pipelines.dashboard import LogGone

    there = _reach(which)
    job = there.job(which.name) if there else None
    if there is None or job is None:
        return _kept_log(which.name)
    try:
        for lines in following.lines(there, job, which.follow, _warn):
            print("\n".join(lines), flush=True)
    except LogGone as problem:
        _warn(f"{problem}; what MLflow keeps of it:")
        return _kept_log(job.name)
    if which.follow:
        with contextlib.suppress(ValueError):  # the log was shown, whatever becomes of its cluster now
            job = there.job(job.name) or job
    return _end_log(job.name, _link(job.said))


def _kept_log(name: str) -> int:
    from pipelines import history

    print("\n".join(history.log(name)))
    return _end_log(name, _kept(name).link)


def _end_log(name: str, link: str) -> int:
    """Says beside a log where the job's run is, and what to do next."""
    if link:
        print(f"MLflow run {link}", file=sys.stderr)
    steps.show(f"eagerly jobs status {name}", file=sys.stderr)
    return 0


def _warn(text: str) -> None:
    print(f"eagerly: {text}", file=sys.stderr, flush=True)


def _stop(which: Stop) -> int:
    from pipelines import jobs

    there = _connect(which)
    job = _find(there, which.name)
    if job.state in jobs.ENDED:
        print(f"job        {job.name} is {job.status} already")
        steps.show(f"eagerly jobs status {job.name}", f"eagerly jobs logs {job.name}")
        return 0
    began = time.monotonic()
    there.stop(job)
    state = there.wait(job, STOP_SECONDS)
    if state not in jobs.ENDED:
        raise ValueError(
            f"the job {job.name!r} did not end within {STOP_SECONDS:.0f} s; see `eagerly jobs status {job.name}`"
        )
    print(f"job        {job.name} is {jobs.STATUS[state]} after {time.monotonic() - began:.1f} s")
    steps.show(f"{_again(job)}  # goes on with it", f"eagerly jobs status {job.name}")
    return 0


def _wait(which: Wait) -> int:
    from pipelines import following, jobs

    there = _connect(which)
    job = _find(there, which.name)
    state = following.ended(there, job, which.timeout or float("inf"), _warn)
    print(f"job        {job.name} is {jobs.STATUS.get(state, 'running')}")
    steps.show(f"eagerly jobs status {job.name}", f"eagerly jobs logs {job.name}")
    if state not in jobs.ENDED:
        return STILL_RUNS
    return int(state != "SUCCEEDED")
