"""`eagerly jobs`: what became of submitted jobs, by name; from the cluster, or from MLflow once it is gone."""

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from eagerly import flags, table
from eagerly.commands.submit import find_address

if TYPE_CHECKING:
    from pipelines.history import Kept
    from pipelines.jobs import Cluster, Job

HELP = """usage: eagerly jobs list
       eagerly jobs status NAME
       eagerly jobs logs [-f] NAME
       eagerly jobs stop NAME
       eagerly jobs wait [--timeout SECONDS] NAME

each with --address http://head:8265 unless RAY_ADDRESS or `eagerly cluster up` says which cluster. When it does not
answer, list, status and logs show what is kept in MLflow (MLFLOW_TRACKING_URI). wait ends with 0 when the job is done,
with 1 when it failed or was stopped, with 2 when the cluster stays away, and with 3 when it still runs."""
VERBS = ("list", "status", "logs", "stop", "wait")
STOP_SECONDS = 8.0
STILL_RUNS = 3


@dataclass(frozen=True)
class Which:
    """Names a job."""

    name: tyro.conf.Positional[str] = ""
    """Name of the job."""
    address: str = ""
    """Of the cluster's dashboard, such as http://head:8265."""
    follow: bool = False
    """Whether logs go on until the job ends; -f."""
    timeout: float = 0.0
    """Seconds to wait at most; 0 waits until the end."""


def main(words: list[str]) -> int:
    """Runs `eagerly jobs ...`. Raises ValueError with a sentence for everything the user can mend."""
    if not words or words[0] in ("--help", "-h"):
        print(HELP)
        return 0
    verb, *rest = words
    if verb not in VERBS:
        raise ValueError(f"`eagerly jobs {verb}` is not understood; there are {', '.join(VERBS)}")
    which = flags.parse(Which, ["--follow" if word == "-f" else word for word in rest], f"eagerly jobs {verb}")
    if (verb == "list") != (which.name == ""):
        raise ValueError(f"`eagerly jobs {verb}` takes {'no name' if verb == 'list' else 'the name of a job'}")
    deed: Callable[[Which], int] = {"list": _list, "status": _status, "logs": _logs, "stop": _stop, "wait": _wait}[verb]
    return deed(which)


def _connect(which: Which) -> "Cluster":
    from pipelines import jobs

    return jobs.connect(find_address(which.address))


def _reach(which: Which) -> "Cluster | None":
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


def _list(which: Which) -> int:
    from pipelines import history

    there = _reach(which)
    live = [there.heard(job) for job in there.jobs()] if there else []
    rows = [(job.name, job.task, job.status, *_progress(job.said, job.ended is not None)) for job in live]
    if there is None:
        rows = [(one.name, one.task, one.status, *_progress(one.said, True)) for one in history.jobs()]
    print(table.render(("job", "task", "status", "steps", "left", "restarts", "submitted"), rows))
    name = rows[0][0] if rows else ""
    print(f"next  eagerly jobs status {name}" if rows else "no jobs yet; `eagerly submit sentiment` submits one")
    return 0


def _progress(said: dict[str, Any], ended: bool) -> tuple[str, str, str, str]:
    steps = f"{said['step']}/{said['steps']}" if said.get("steps") else ""
    left = "" if ended or said.get("left_s") is None else f"{said['left_s']} s"
    if not ended and (said.get("position") or said.get("waits_for")):
        steps = f"place {said['position']} in the queue" if said.get("position") else said["waits_for"]
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(said["begun"])) if said.get("begun") else ""
    return steps, left, str(said.get("restarts", "")), begun


def _status(which: Which) -> int:
    there = _reach(which)
    job = there.job(which.name) if there else None
    if job is None:
        kept = _kept(which.name)
        _describe(kept.name, kept.task, kept.status, kept.said, kept.link)
        print(f"next       eagerly jobs logs {kept.name}")
        return 0
    run_id = job.said.get("mlflow", "")
    _describe(job.name, job.task, job.status, job.said, _link(run_id) if run_id else "")
    if job.state == "FAILED" and (lines := [line for line in job.message.splitlines() if not line.startswith("@")]):
        print(f"reason     {lines[-1]}")
    logs = f"jobs logs {job.name}"
    way = {"SUCCEEDED": f"models show {Path(job.task).name}", "FAILED": logs, "STOPPED": logs}
    if job.state in ("FAILED", "STOPPED"):
        print(f"next       eagerly submit {_word(job)} --name {job.name} --again")
    print(f"next       eagerly {way.get(job.state, f'jobs logs -f {job.name}')}")
    return 0


def _word(job: "Job") -> str:
    """Names a job's task as `eagerly submit` takes it here; a user's own is below another folder in the job."""
    folder = Path(job.folder)
    if job.folder and folder.is_relative_to(Path.cwd()):
        return shlex.quote(f"./{folder.relative_to(Path.cwd())}")
    return shlex.quote(job.folder or job.task)


def _kept(name: str) -> "Kept":
    from pipelines import history, tracking

    if not (found := history.jobs(name)):
        raise ValueError(f"no job {name!r} is known, neither to a cluster nor to MLflow at {tracking.uri()!r}")
    return found[0]


def _describe(name: str, task: str, status: str, said: dict[str, Any], link: str) -> None:
    steps, left, restarts, begun = _progress(said, status in ("done", "failed", "stopped"))
    facts = {"job": f"{name}, {task}, {status}", "steps": steps, "left": left, "loss": said.get("loss", "")}
    facts |= {"restarts": restarts, "begun": begun, "run": said.get("run_dir", ""), "MLflow run": link}
    for what, value in facts.items():
        if value != "":
            print(f"{what:<10} {value}")


def _link(run_id: str) -> str:
    """Says where the run is, without asking MLflow."""
    from pipelines import tracking

    return f"{run_id} in {tracking.uri()}"


def _logs(which: Which) -> int:
    from pipelines import following, history
    from pipelines.dashboard import LogGone

    there = _reach(which)
    job = there.job(which.name) if there else None
    if there is None or job is None:
        print("\n".join(history.log(which.name)))
        return 0
    try:
        for lines in following.lines(there, job, which.follow, _warn):
            print("\n".join(lines), flush=True)
    except LogGone as problem:
        _warn(f"{problem}; what MLflow keeps of it:")
        print("\n".join(history.log(job.name)))
    print(f"next  eagerly jobs status {job.name}", file=sys.stderr)
    return 0


def _warn(text: str) -> None:
    print(f"eagerly: {text}", file=sys.stderr, flush=True)


def _stop(which: Which) -> int:
    from pipelines import jobs

    there = _connect(which)
    job = _find(there, which.name)
    if job.state in jobs.ENDED:
        print(f"job        {job.name} is {job.status} already")
        return 0
    began = time.monotonic()
    there.stop(job)
    state = there.wait(job, STOP_SECONDS)
    if state not in jobs.ENDED:
        raise ValueError(
            f"the job {job.name!r} did not end within {STOP_SECONDS:.0f} s; see `eagerly jobs status {job.name}`"
        )
    print(f"job        {job.name} is {jobs.STATUS[state]} after {time.monotonic() - began:.1f} s")
    print(f"next       eagerly submit {_word(job)} --name {job.name} --again goes on with it")
    return 0


def _wait(which: Which) -> int:
    from pipelines import following, jobs

    there = _connect(which)
    job = _find(there, which.name)
    state = following.ended(there, job, which.timeout or float("inf"), _warn)
    print(f"job        {job.name} is {jobs.STATUS.get(state, 'running')}")
    print(f"next       eagerly jobs status {job.name}")
    if state not in jobs.ENDED:
        return STILL_RUNS
    return int(state != "SUCCEEDED")
