"""`eagerly submit`: trains on a cluster as a job, through Ray's jobs server or as a RayJob on Kubernetes."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eagerly import flags, steps, usage
from pipelines import tasks
from pipelines.settings import Launch, Settings

if TYPE_CHECKING:
    from pipelines.jobs import Cluster, Order

HELP = f"""usage: eagerly submit TASK [--address http://head:8265] [flags of `eagerly train`]

TASK is one of {", ".join(tasks.TASKS)}, or the folder of a task of your own with {", ".join(tasks.FILES)}.
The code travels with the job. `eagerly submit TASK --help` shows all flags; `eagerly cluster up` starts a cluster here;
`eagerly jobs` shows how jobs go on."""
NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
MOST_NAME = 47
"""KubeRay's own limit for the names of RayJobs, from which it makes longer ones."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Submit:
    """Where a job goes, and as what."""

    address: str = ""
    """Of the cluster's dashboard, as http://head:8265; empty is RAY_ADDRESS, or the one of `eagerly cluster up`."""
    name: str = ""
    """Name of the job and of its run; empty makes TASK-DATE-TIME."""
    priority: int = 0
    """Jobs of a higher one run first; equal ones in the order of their submission."""
    again: bool = False
    """Whether to go on with the job of this name, which ended before its training did."""
    restarts: int = 3
    """Times that the job's driver may be killed and is started again from the last checkpoint."""
    any_version: bool = False
    """Whether to submit though Python or Ray differ from the cluster's."""
    dry_run: bool = False
    """Whether to print what would be submitted, and submit nothing."""
    kubernetes: bool = False
    """Whether to write a KubeRay RayJob to the output instead of asking a jobs server."""
    apply: bool = False
    """Whether to give the RayJob to `kubectl`."""
    namespace: str = "eagerly"
    """Namespace of the RayJob."""
    release: str = "eagerly"
    """Release of the Helm chart, on whose training cluster the job runs."""
    image: str = ""
    """Image of the RayJob's Pods; empty is the chart's for this version."""
    group: str = ""
    """The chart's group of Pods that the job runs on; empty is gpu with --gpu, else cpu."""
    queue: str = ""
    """Kueue's LocalQueue; the RayJob then has a cluster of its own, for which Kueue finds room."""
    priority_class: str = ""
    """Kueue's WorkloadPriorityClass of the job."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        if self.name and (not NAME.fullmatch(self.name) or len(self.name) > MOST_NAME):
            raise ValueError(
                f"--name is {self.name!r}; it must be small letters, digits and hyphens, begin with a letter, and have "
                f"{MOST_NAME} characters at most"
            )
        if self.restarts < 0:
            raise ValueError(f"--restarts is {self.restarts}; it must be 0 or more")
        if (self.apply or self.queue) and not self.kubernetes:
            raise ValueError(f"{'--apply' if self.apply else '--queue'} goes with --kubernetes")
        if self.priority_class and not self.queue:
            raise ValueError("--priority-class is Kueue's and goes with --queue; --priority orders our own queue")


@dataclass(frozen=True)
class Wish:
    """A command line, read."""

    word: str
    config: Settings
    launch: Launch
    submit: Submit
    notes: list[str] = field(default_factory=list)


def main(words: list[str]) -> int:
    """Runs `eagerly submit ...`. Raises ValueError with a sentence for everything the user can mend."""
    if not words or words[0] in usage.HELP:
        print(HELP)
        return 0
    wish = read(words)
    if wish.submit.kubernetes:
        from eagerly.commands import kubernetes

        return kubernetes.write(wish)
    return _to_cluster(wish)


def read(words: list[str]) -> Wish:
    """Reads a task and its flags. Raises ValueError for those that have no meaning in a job."""
    word, *rest = words
    if word.startswith("-"):
        raise ValueError(f"`eagerly submit {word}`: the task comes first; see `eagerly submit --help`")
    task = tasks.find(word)
    parts = [("config", task.config.Config), ("launch", Launch), ("submit", Submit)]
    kind = make_dataclass("Flags", parts, frozen=True)
    kind.__doc__ = f"Trains {word} on a cluster as a job."
    parsed: Any = flags.parse(kind, rest, f"eagerly submit {word}")
    launch, submit = parsed.launch, parsed.submit
    if launch.local:
        raise ValueError("--local trains in this process; leave it out, or use `eagerly train`")
    if launch.resume:
        raise ValueError("--resume is for `eagerly train`; --name NAME --again goes on with a job that ended early")
    if submit.again and not submit.name:
        raise ValueError("--again goes on with a job that ended early; say which with --name")
    name = submit.name or f"{task.name.replace('_', '-').lower()}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Wish(word, parsed.config, launch, replace(submit, name=name))


def _to_cluster(wish: Wish) -> int:
    from pipelines import bundle, jobs

    address = find_address(wish.submit.address)
    there = jobs.connect(address)
    if not wish.submit.any_version:
        there.check_versions()
    there.check_room(wish.launch)
    with bundle.made(wish.word) as code:
        order = _order(wish, there, code.word, code.folder)
        print(f"cluster    {address}, {there.describe()}")
        print(f"code       {code.describe()}")
        print(
            f"run        {order.run_dir or 'in runs/ of EAGERLY_HOME on the head, and ends with it without --storage'}"
        )
        for note in wish.notes:
            print(note)
        if wish.submit.dry_run:
            print(f"command    {order.entrypoint()}")
            for name, value in order.variables().items():
                print(f"           {name}={value}")
            print("next       the same without --dry-run submits it")
            return 0
        there.submit(order, wish.submit.again)
    print(f"job        {order.name} is submitted, priority {order.priority}")
    steps.show(*(f"eagerly jobs {verb} {order.name}" for verb in ("logs -f", "status", "stop")))
    return 0


def find_address(given: str) -> str:
    """Finds the jobs server: what was given, RAY_ADDRESS, or the cluster of `eagerly cluster up`.

    Raises ValueError when there is none. Makes this process show the token of a cluster that was started here.
    """
    from pipelines import cluster

    local = cluster.known()
    for address in (given, os.environ.get("RAY_API_SERVER_ADDRESS", ""), os.environ.get("RAY_ADDRESS", "")):
        if address and (address == given or address.startswith("http")):
            found = (address if "://" in address else f"http://{address}").rstrip("/")
            break
    else:
        if local is None:
            raise ValueError(
                "there is no cluster to ask; name one with --address, or start one with `eagerly cluster up`"
            )
        found = local.address
    if local is not None and found == local.address:
        cluster.use_token(local)
    return found


def _order(wish: Wish, there: "Cluster", word: str, code: Path) -> "Order":
    from pipelines.jobs import Order

    here = there.is_here()
    launch, run_dir = _place(wish, there, here)
    _check_done(wish.submit.name, run_dir)
    config = _files(wish, here)
    environment = {"MLFLOW_TRACKING_URI": _tracking(there.address, here)}
    if here:
        environment["EAGERLY_JOB_FOLDER"] = str(Path.cwd())  # where MLflow's own mlruns/ then is
    if commit := _commit(wish.word):
        environment["EAGERLY_COMMIT"] = commit
    task, submit = tasks.find(wish.word), wish.submit
    given = [*words_of(config, task.config.Config()), *words_of(launch, Launch())]
    folder = "" if wish.word in tasks.TASKS else str(task.folder)
    return Order(submit.name, word, given, code, run_dir, submit.priority, submit.restarts, environment, folder)


def _check_done(name: str, run_dir: str) -> None:
    """Raises ValueError when a name's run is done; one that is not goes on."""
    from pipelines.journal import Reader

    if run_dir and any(event["event"] == "test" for event in Reader(Path(run_dir)).new_events()):
        raise ValueError(f"the job name {name!r} is taken by a run that is done, in {run_dir!r}; give another --name")


def _place(wish: Wish, there: "Cluster", here: bool) -> tuple[Launch, str]:
    """Says where the run's folder is: in a folder that all machines share, or on the cluster, copied to a storage."""
    launch, name = wish.launch, wish.submit.name
    if launch.run_dir:
        return replace(launch, run_dir=""), str(Path(launch.run_dir).resolve()) if here else launch.run_dir
    storage = launch.storage
    if storage and "://" not in storage:
        folder = Path(storage).resolve() if here else Path(storage)
        if not folder.is_absolute():
            raise ValueError(f"--storage is {storage!r}; name the shared folder by its whole path")
        return replace(launch, storage=""), str(folder / name)
    machines = len(there.nodes())
    if machines > 1 and not storage:
        raise ValueError(
            f"the cluster has {machines} machines, and a run needs a folder that all of them see; "
            "name it with --storage"
        )
    return launch, str(Path("runs").resolve() / name) if here else ""


def _files(wish: Wish, here: bool) -> Settings:
    """Makes the files that the configuration names reachable from the cluster. Raises ValueError when they are not."""
    from pipelines import runs

    config, storage = wish.config, wish.launch.storage
    if here:
        return runs.absolute(config)
    for name in config.PATHS:
        value = str(getattr(config, name, ""))
        flag = "--" + name.replace("_", "-")
        if value.startswith("file:///"):
            config = replace(config, **{name: value.removeprefix("file://")})
        elif value and "://" not in value and Path(value).exists():
            config = replace(config, **{name: _upload(wish, flag, Path(value).resolve(), storage)})
        elif value and "://" not in value and name == "data":
            raise ValueError(
                f"{flag} is {value!r}, which is not here; a path of the cluster's is given as file:///PATH"
            )
    return config


def _upload(wish: Wish, flag: str, path: Path, storage: str) -> str:
    from pipelines import uploads

    if not storage or ("://" not in storage and not Path(storage).is_dir()):
        seen = f"and --storage {storage!r} is no folder here" if storage else "and the job has no --storage"
        raise ValueError(
            f"{flag} {str(path)!r} is on this machine, {seen}; add --storage with s3://BUCKET/..., gs://BUCKET/... or "
            "a folder that both see, or give a path of the cluster's as file:///PATH"
        )
    found, new = uploads.send(path, storage)
    wish.notes.append(f"{flag:<10} {'uploaded' if new else 'is there already, not uploaded again'}: {found}")
    return found


def _tracking(address: str, here: bool) -> str:
    """Names the tracking store for the job. Raises ValueError when the cluster cannot reach it."""
    from pipelines import tracking

    uri = tracking.uri()
    parts = urlsplit(uri)
    if not here and (parts.scheme in tracking.ONE_MACHINE or parts.hostname in LOOPBACK):
        raise ValueError(
            f"runs are logged to {uri!r}, which is of this machine alone, and the cluster at {address} is another; "
            "start `mlflow server` where both reach it and set MLFLOW_TRACKING_URI to its http address"
        )
    return uri


def _commit(word: str) -> str:
    from pipelines import tracking

    return tracking.git_commit(tasks.find(word).folder)


def words_of(values: Any, usual: Any) -> Iterator[str]:
    """Writes the flags that make `values` out of `usual`."""
    for one in fields(values):
        value = getattr(values, one.name)
        if value == getattr(usual, one.name):
            continue
        flag = one.name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif isinstance(value, tuple | list):
            yield from (f"--{flag}", *map(str, value))
        else:
            yield f"--{flag}={value}"
