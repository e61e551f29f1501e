"""`eagerly submit`: trains on a cluster as a job, through Ray's jobs server or as a RayJob on Kubernetes."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagerly import flags, steps, usage
from eagerly.commands import orders
from pipelines import tasks
from pipelines.settings import Launch, Settings

if TYPE_CHECKING:
    from pipelines.jobs import Job

HELP = f"""usage: eagerly submit TASK [--address http://head:8265] [flags of `eagerly train`]

TASK is one of {", ".join(tasks.TASKS)}, or the folder of a task of your own with {", ".join(tasks.FILES)}.
The code travels with the job. `eagerly submit TASK --help` shows all flags; `eagerly cluster up` starts a cluster here;
`eagerly jobs` shows how jobs go on."""
NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
MOST_NAME = 47
"""KubeRay's own limit for the names of RayJobs, from which it makes longer ones."""


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
    """Image of the RayJob's Pods, wanted where the chart has an image.prefix or image.tag; empty is eagerly-train."""
    group: str = ""
    """The chart's group of Pods that the job runs on; empty is gpu with --gpu, else cpu."""
    queue: str = ""
    """Kueue's LocalQueue; the RayJob then has a cluster of its own, for which Kueue finds room."""
    priority_class: str = ""
    """Kueue's WorkloadPriorityClass of the job."""
    claim: str = ""
    """Claim with the runs of a RayJob that has a cluster of its own; empty is the one that the chart makes."""
    deadline_s: int = 0
    """Seconds after which Kubernetes ends the RayJob, done or not; 0 lets it take its time."""

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
        if self.kubernetes and self.again:
            raise ValueError(
                "--again asks a jobs server, so it goes without --kubernetes; `kubectl delete rayjob` the old one and "
                "leave out --again: a RayJob of the same name and flags goes on with the run"
            )
        if self.deadline_s < 0:
            raise ValueError(f"--deadline-s is {self.deadline_s}; it must be 0 or more")
        if self.deadline_s and not self.kubernetes:
            raise ValueError("--deadline-s goes with --kubernetes")
        if self.priority_class and not self.queue:
            raise ValueError("--priority-class is Kueue's and goes with --queue; --priority orders our own queue")
        if self.claim and not self.queue:
            raise ValueError("--claim goes with --queue; the chart's own cluster has the claim of training.storage")


@dataclass(frozen=True)
class Wish:
    """A command line, read."""

    word: str
    config: Settings
    launch: Launch
    submit: Submit
    flags: list[str] = field(default_factory=list)
    """What was given besides the task."""
    notes: list[str] = field(default_factory=list)
    """What the user is told of the job."""


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


def read(words: list[str], earlier: Sequence[str] = ()) -> Wish:
    """Reads a task and its flags, over `earlier` ones. Raises ValueError for those that have no meaning in a job."""
    word, *rest = words
    if word.startswith("-"):
        raise ValueError(f"`eagerly submit {word}`: the task comes first; see `eagerly submit --help`")
    task = tasks.find(word)
    parts = [("config", task.config.Config), ("launch", Launch), ("submit", Submit)]
    kind = make_dataclass("Flags", parts, frozen=True)
    kind.__doc__ = f"Trains {word} on a cluster as a job."
    parsed: Any = flags.parse(kind, rest, f"eagerly submit {word}", earlier=earlier)
    launch, submit = parsed.launch, parsed.submit
    if launch.local:
        raise ValueError("--local trains in this process; leave it out, or use `eagerly train`")
    if launch.resume:
        raise ValueError("--resume is for `eagerly train`; --name NAME --again goes on with a job that ended early")
    if submit.again and not submit.name:
        raise ValueError("--again goes on with a job that ended early; say which with --name")
    name = submit.name or f"{task.name.replace('_', '-').lower()}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Wish(word, parsed.config, launch, replace(submit, name=name), rest)


def _to_cluster(wish: Wish) -> int:
    from pipelines import bundle, jobs

    address = find_address(wish.submit.address)
    there = jobs.connect(address)
    earlier = there.earlier(wish.submit.name, wish.submit.again)
    if earlier is not None:
        wish = going_on(wish, earlier)
    if not wish.submit.any_version:
        there.check_versions()
    there.check_room(wish.launch)
    with bundle.made(wish.word) as code:
        order = orders.make(wish, there, code.word, code.folder, earlier)
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
        there.submit(order)
    print(f"job        {order.name} is submitted, priority {order.priority}")
    steps.show(*(f"eagerly jobs {verb} {order.name}" for verb in ("logs -f", "status", "stop")))
    return 0


def going_on(wish: Wish, earlier: "Job") -> Wish:
    """Lays a command line over the one of the job that it goes on with. Raises ValueError for another task's."""
    task = tasks.find(wish.word).name
    if Path(earlier.task).name != task:
        of = Path(earlier.task).name
        raise ValueError(f"the job {earlier.name!r} is of {of}, not of {task}; give another --name")
    return read([wish.word, *wish.flags], earlier.words)


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
