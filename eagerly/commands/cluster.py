"""`eagerly cluster`: a Ray cluster on this machine to submit jobs to."""

import time
from dataclasses import dataclass

from eagerly import flags, steps, usage
from eagerly.usage import Verb

VERBS = {
    "up": Verb(
        "[--port 8265] [--cpus N] [--gpus N]", "Starts a Ray cluster on this machine to submit jobs to.", has_flags=True
    ),
    "status": Verb("", "Says where the cluster is and what it has; ends with 1 when none answers."),
    "down": Verb("", "Ends exactly the processes of the cluster, jobs included."),
}
HELP = usage.page(
    "eagerly cluster",
    VERBS,
    """up starts a Ray cluster on this machine, which listens on loopback alone and asks for a token; `eagerly submit`
and `eagerly jobs` find both by themselves. down ends exactly its processes, jobs included.""",
)
NONE = "no cluster runs here; `eagerly cluster up` starts one"


@dataclass(frozen=True)
class Up:
    """Starts a Ray cluster on this machine to submit jobs to."""

    port: int = 8265
    """Port of the dashboard and the jobs server on loopback; 0 takes a free one."""
    cpus: int = 0
    """CPU cores that the cluster says it has; 0 takes this machine's."""
    gpus: int = -1
    """GPUs that the cluster says it has; -1 takes this machine's."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        if self.cpus < 0:
            raise ValueError(f"--cpus is {self.cpus}; it must be 0 or more")
        if self.gpus < -1:
            raise ValueError(f"--gpus is {self.gpus}; it must be -1 or more")


def main(words: list[str]) -> int:
    """Runs `eagerly cluster ...`. Raises ValueError with a sentence for everything the user can mend."""
    match words:
        case []:
            print(HELP)
        case ["up", *rest]:
            _up(flags.parse(Up, rest, "eagerly cluster up"))
        case ["status"]:
            return _status()
        case ["down"]:
            _down()
        case _:
            raise usage.mistake(words, "eagerly cluster", VERBS)
    return 0


def _up(args: Up) -> None:
    from pipelines import cluster
    from services import ports

    if (there := cluster.known()) is not None:
        raise ValueError(f"a cluster runs here already, at {there.address}; `eagerly cluster down` ends it")
    began = time.monotonic()
    port = ports.find("127.0.0.1", args.port, "--port")
    local = cluster.start(port, ports.find("127.0.0.1", 0, "--port"), args.cpus, args.gpus)
    print(f"cluster    {local.address}, ready after {time.monotonic() - began:.1f} s")
    if local.token:
        print(f"token      in {local.token}; other programs need RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH")
    steps.show("eagerly submit sentiment", "eagerly cluster down")


def _status() -> int:
    from pipelines import cluster

    if (local := cluster.known()) is None:
        print(NONE)
        return 1
    if not cluster.answers(local):
        print(f"cluster    {local.address} does not answer; `eagerly cluster down` ends it")
        return 1
    from pipelines import jobs

    cluster.use_token(local)
    there = jobs.connect(local.address)
    print(f"cluster    {local.address}, {there.describe()}")
    steps.show("eagerly jobs list", "eagerly submit sentiment", "eagerly cluster down")
    return 0


def _down() -> None:
    from pipelines import cluster

    if (local := cluster.known()) is None:
        raise ValueError(NONE)
    count = cluster.stop(local)
    print(f"ended      {count} processes of the cluster at {local.address}")
    steps.show("eagerly jobs list  # shows what MLflow keeps", "eagerly cluster up")
