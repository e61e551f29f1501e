"""Jobs on a Ray cluster, through its jobs server: what is there, what is sent, how it goes on; asks over HTTP alone."""

import json
import logging
import platform
import shlex
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import cluster, job_log
from pipelines.capacity import counted
from pipelines.dashboard import Dashboard, LogGone, NoAnswer, sentences
from pipelines.settings import Launch

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STATUS = {"PENDING": "starting", "SUCCEEDED": "done", "FAILED": "failed", "STOPPED": "stopped"}
POLL_SECONDS = 0.2
TAILS = (300, 5000)
"""How many lines of a log's end are read to learn how a job goes on, and then, when people are told so much."""


@dataclass(frozen=True)
class Order:
    """What is to be submitted."""

    name: str
    task: str
    """As the cluster knows it: a task's name, or the folder of a user's own below the working folder."""
    flags: list[str]
    """Of `eagerly train`."""
    code: Path
    """The working folder that travels."""
    run_dir: str
    """Folder of the run on the cluster; empty is below the cluster's own EAGERLY_HOME."""
    priority: int = 0
    restarts: int = 3
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    """Where a user's own task is on the machine that submits; empty for the tasks that eagerly has."""
    again: bool = False
    """Whether it goes on with a run, and fails where there is none."""

    def entrypoint(self) -> str:
        """Writes the command of the job's supervisor."""
        plan = {"name": self.name, "task": self.task, "flags": self.flags}
        plan |= {"run_dir": self.run_dir, "restarts": self.restarts, **({"again": True} if self.again else {})}
        return f"python -m eagerly.supervisor {shlex.quote(json.dumps(plan, separators=(',', ':')))}"

    def variables(self) -> dict[str, str]:
        """Lists the environment of the job."""
        own = {"EAGERLY_JOB": self.name, "EAGERLY_JOB_PRIORITY": str(self.priority)}
        return {**self.environment, **own, "EAGERLY_JOB_SINCE": f"{time.time():.3f}"}


@dataclass(frozen=True)
class Job:
    """A job as the jobs server knows it, with what its supervisor said last."""

    name: str
    task: str
    submission: str
    state: str
    """Ray's: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED."""
    begun: float
    ended: float | None
    message: str
    node: str = ""
    """Ray's id of the machine where its log is, once it has begun."""
    folder: str = ""
    """Where a user's own task is on the machine that submitted it."""
    plan: dict[str, Any] = field(default_factory=dict)
    """What its supervisor was given, with the keys of Order.entrypoint; empty for a job without one."""
    environment: dict[str, str] = field(default_factory=dict)
    """The variables that it was submitted with."""
    said: dict[str, Any] = field(default_factory=dict)
    """phase, step, steps, loss, left_s, restarts, position, waits_for, run_dir, mlflow, as far as known."""

    @property
    def status(self) -> str:
        """Says in a word where the job stands."""
        return STATUS.get(self.state) or str(self.said.get("phase", "starting"))

    @property
    def words(self) -> list[str]:
        """The flags of `eagerly submit` that make the same job, but for its name and its run's folder."""
        if not self.plan:
            return []
        priority = self.environment.get("EAGERLY_JOB_PRIORITY", "0")
        return [*self.plan["flags"], f"--restarts={self.plan['restarts']}", f"--priority={priority}"]


class Cluster:
    """The jobs server of a cluster that answers."""

    def __init__(self, address: str) -> None:
        """Connects. Raises ValueError with a sentence when nothing answers, or something else than Ray does."""
        self.address = address
        self._dashboard = Dashboard(address)
        self._client = self._dashboard.client
        with sentences(address):
            about = self._dashboard.get("/api/version")
            self.ray, self._session = about["ray_version"], about.get("session_name", "")
            self.python = str(self._dashboard.get("/api/v0/cluster_metadata")["data"]["pythonVersion"])

    def nodes(self) -> list[dict[str, float]]:
        """Lists the resources of each machine that lives."""
        for _ in range(50):  # a cluster that has just started knows none for a while
            found = self._dashboard.get("/api/v0/nodes?limit=10000")["data"]["result"]["result"]
            alive = [node.get("resources_total") or {} for node in found if node["state"] == "ALIVE"]
            if alive:
                return alive
            time.sleep(0.2)
        return []

    def describe(self) -> str:
        """Says in words what the cluster is and has."""
        nodes = self.nodes()
        counts = [counted(int(sum(node.get(kind, 0) for node in nodes)), kind) for kind in ("CPU", "GPU")]
        machines = counted(len(nodes), "machine")
        return f"Ray {self.ray}, Python {self.python}, {machines}, {' and '.join(counts)}"

    def is_here(self) -> bool:
        """Says whether the whole cluster runs on this machine, which shares its files then.

        A tunnel's end is on loopback too, so the cluster's own session folder must be here.
        """
        ours = cluster.known()
        folders = [Path(ours.folder)] if ours else []
        folders.append(Path(tempfile.gettempdir()) / "ray")
        there = bool(self._session) and any((folder / self._session).is_dir() for folder in folders)
        return there and len(self.nodes()) == 1

    def check_versions(self) -> None:
        """Raises ValueError when Python or Ray differ between here and there, naming both."""
        import ray

        here, there = (platform.python_version(), ray.__version__), (self.python, self.ray)
        if _minor(here[0]) == _minor(there[0]) and here[1] == there[1]:
            return
        raise ValueError(
            f"this machine has Python {here[0]} and Ray {here[1]}, the cluster at {self.address} Python {there[0]} and "
            f"Ray {there[1]}; install the cluster's here, or start the cluster from this release's image "
            "(--any-version submits all the same)"
        )

    def check_room(self, launch: Launch) -> None:
        """Raises ValueError when the cluster lacks the workers' processors or GPUs, unless the launch waits."""
        kind, least = "GPU" if launch.gpu else "CPU", int(str(launch.workers).partition(":")[0])
        there = int(sum(node.get(kind, 0) for node in self.nodes()))
        if least > there and not getattr(launch, "wait", False):
            raise ValueError(
                f"--workers is {launch.workers}{' --gpu' if launch.gpu else ''}, and the cluster at {self.address} has "
                f"{counted(there, kind)}; ask for fewer workers{' or leave out --gpu' if launch.gpu else ''}, or give "
                "--wait to wait until it has them"
            )

    def earlier(self, name: str, again: bool) -> Job | None:
        """Finds the job that has a name, with which `again` goes on.

        Raises ValueError when the name is taken, or when `again` is to go on with a job that still runs.
        """
        job = next((job for job in self.jobs() if job.name == name), None)
        if job is not None:
            self._check_again(job, again)
        return job

    def submit(self, order: Order) -> str:
        """Sends the code and the command; returns the submission's id. Raises ValueError as `earlier` does."""
        before = self.earlier(order.name, order.again)
        for noisy in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        with sentences(self.address):
            return self._client.submit_job(
                entrypoint=order.entrypoint(),
                submission_id=f"{order.name}.{_attempt(before.submission) + 1}" if before else order.name,
                runtime_env={"working_dir": str(order.code), "env_vars": order.variables()},
                metadata=metadata(order.name, order.task, order.folder),
            )

    def _check_again(self, job: Job, again: bool) -> None:
        if job.state not in ENDED:
            way = f"give another --name, or stop it first: `eagerly jobs stop {job.name}`"
            raise ValueError(f"the job name {job.name!r} is taken by a job that is {job.status}; {way}")
        if job.state == "SUCCEEDED" or not again:
            way = "; --again goes on with it where it ended" if job.state != "SUCCEEDED" else ""
            raise ValueError(
                f"the job name {job.name!r} is taken by a job that is {job.status}; give another --name{way}"
            )

    def jobs(self) -> list[Job]:
        """Lists the jobs that were submitted by us, the newest first, each by its last attempt."""
        with sentences(self.address):
            found = [
                _job(details) for details in self._client.list_jobs() if "eagerly_name" in (details.metadata or {})
            ]
        newest = {job.name: job for job in sorted(found, key=lambda job: job.begun)}
        return sorted(newest.values(), key=lambda job: -job.begun)

    def job(self, name: str) -> Job | None:
        """Finds a job by its name, with what its supervisor said last."""
        job = next((job for job in self.jobs() if job.name == name), None)
        return None if job is None else self.heard(job)

    def heard(self, job: Job) -> Job:
        """Adds what the job's supervisor said last, which is read from the end of its log, however long that is."""
        said: dict[str, Any] = {}
        for count in TAILS:
            lines = self._tail(job, count)
            if (said := job_log.latest(lines)) or len(lines) < count:
                break
        return Job(**{**job.__dict__, "said": {**said, "begun": job.begun}})

    def _tail(self, job: Job, count: int) -> list[str]:
        """Gives the last lines of a job's log; none where the machine that has it is gone."""
        try:
            return b"".join(self.log(job, count)).decode(errors="replace").splitlines()
        except (LogGone, NoAnswer):
            return []

    def log(self, job: Job, lines: int) -> Iterator[bytes]:
        """Gives the end of the job's log, as Dashboard.log does; nothing while the job has no machine."""
        return self._dashboard.log(job.node, job.submission, lines) if job.node else iter(())

    def again(self, job: Job) -> Job | None:
        """Reads anew where a job stands; None where another cluster answers than the one that had the job."""
        from ray.job_submission import JobDetails

        found = self._dashboard.get(f"/api/jobs/{job.submission}", missing={})
        now = _job(JobDetails(**found)) if found else None
        return now if now is not None and now.begun == job.begun else None

    def stop(self, job: Job) -> None:
        """Asks the job to end: SIGTERM, and after 3 s SIGKILL, to all of its processes."""
        with sentences(self.address):
            self._client.stop_job(job.submission)

    def wait(self, job: Job, seconds: float) -> str:
        """Waits until the job has ended, or `seconds` are over; returns Ray's state."""
        deadline, state = time.monotonic() + seconds, ""
        while True:
            with sentences(self.address):
                state = str(self._client.get_job_status(job.submission).value)
            if state in ENDED or time.monotonic() > deadline:
                return state
            time.sleep(POLL_SECONDS)


def connect(address: str) -> Cluster:
    """Finds a cluster by the address of its jobs server. Raises ValueError with a sentence when there is none."""
    return Cluster(address)


def metadata(name: str, task: str, folder: str = "") -> dict[str, str]:
    """Makes what a jobs server is to keep of a job, by which it is known as ours."""
    return {"eagerly_name": name, "eagerly_task": task, **({"eagerly_folder": folder} if folder else {})}


def _job(details: Any) -> Job:
    name = details.metadata["eagerly_name"]
    begun = (details.start_time or 0) / 1000
    ended = details.end_time / 1000 if details.end_time else None
    task, message = details.metadata.get("eagerly_task", ""), details.message or ""
    state, node = str(details.status.value), details.driver_node_id or ""
    folder, plan = details.metadata.get("eagerly_folder", ""), _plan(details.entrypoint or "")
    variables = (details.runtime_env or {}).get("env_vars") or {}
    return Job(name, task, details.submission_id, state, begun, ended, message, node, folder, plan, variables)


def _plan(command: str) -> dict[str, Any]:
    """Reads the plan out of the command of a supervisor; empty for another's."""
    try:
        plan = json.loads(shlex.split(command)[-1])
    except (ValueError, IndexError):
        return {}
    return plan if isinstance(plan, dict) and plan.keys() >= {"flags", "run_dir", "restarts"} else {}


def _attempt(submission: str) -> int:
    number = submission.rpartition(".")[2]
    return int(number) if number.isdigit() else 1


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
