"""Whether the cluster has room for the workers, and whether they can reach what they share."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.settings import Launch

RELEASE_SECONDS = 20.0
"""How long a run that ended just now may still hold what it had."""
POLL_SECONDS = 1.0


def counted(count: int, what: str) -> str:
    """Puts a count in words, such as 1 CPU or 2 CPUs."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def find(launch: Launch, grows: bool, say: Callable[[str], None]) -> None:
    """Raises ValueError when the workers do not fit into the cluster; waits for room, saying so, if the launch asks.

    `grows` says whether nodes may join: a cluster that was started for this run stays as it is. `say` gets each new
    sentence, and an empty one once there is room for a run that has waited.
    """
    kind, told, began = "GPU" if launch.gpu else "CPU", "", time.monotonic()
    total, free = _room(kind)
    if total < launch.fewest and not (launch.wait and grows):
        raise ValueError(
            f"{_asked(launch)}, and the cluster has {counted(total, kind)}; ask for fewer workers"
            f"{' or leave out --gpu' if launch.gpu else ''}{', or --wait for more' if grows else ''}"
        )
    if free >= launch.fewest:
        return
    with _wanted(kind, launch.most if launch.wait else 0):
        while free < launch.fewest:
            has = f"the cluster has {counted(total, kind)}, {free} {'of them ' if total != 1 else ''}free"
            if launch.wait and told != (told := f"waiting for {counted(launch.fewest, kind)}: {has}"):
                say(told)
            elif not launch.wait and time.monotonic() - began > RELEASE_SECONDS:
                raise ValueError(f"{_asked(launch)}, and {has}; ask for fewer workers, or --wait")
            time.sleep(POLL_SECONDS)
            total, free = _room(kind)
    if told:
        say("")


def _asked(launch: Launch) -> str:
    return f"--workers is {launch.workers}{' --gpu' if launch.gpu else ''}"


def _room(kind: str) -> tuple[int, int]:
    """Counts what the cluster has, and what of it is free."""
    import ray

    return int(ray.cluster_resources().get(kind, 0)), int(ray.available_resources().get(kind, 0))


@contextmanager
def _wanted(kind: str, count: int) -> Iterator[None]:
    """Lets Ray's autoscaler, where there is one, know meanwhile what is waited for."""
    from ray.autoscaler.sdk import request_resources

    if not count:
        yield
        return
    request_resources(bundles=[{kind: 1}] * count)
    try:
        yield
    finally:
        request_resources(bundles=[])


def machines() -> dict[str, str]:
    """Names a node on each machine of the cluster, by the machine's address."""
    import ray

    return {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}


def check_folders(folders: list[Path]) -> None:
    """Raises ValueError when a machine that may get workers does not see the run folders of this one."""
    import ray

    others = dict(machines())
    others.pop(ray.util.get_node_ip_address(), None)
    check_seen(folders, others)


def check_seen(folders: list[Path], nodes: dict[str, str]) -> None:
    """Raises ValueError when one of the nodes, given by address and id, lacks a folder."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not nodes:
        return
    look = ray.remote(num_cpus=0)(_missing)
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes.values()]
    words = [str(folder) for folder in folders]
    asked = [look.options(scheduling_strategy=place).remote(words) for place in places]
    for address, missing in zip(nodes, ray.get(asked), strict=True):
        if missing:
            raise ValueError(
                f"the machine at {address} does not see the run folder {missing[0]!r}, and workers may run there; "
                "give a --run-dir on a file system that all machines share"
            )


def _missing(folders: list[str]) -> list[str]:
    from pathlib import Path

    return [folder for folder in folders if not Path(folder).is_dir()]
