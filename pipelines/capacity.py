"""Whether the cluster has room for the workers, and whether they can reach what they share."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.settings import Launch, Settings
from pipelines.tasks import TASKS, Task

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
    kind, told, began = _kind(launch), "", time.monotonic()
    total, free = _room(kind)
    if total < launch.fewest and not (launch.wait and grows):
        raise ValueError(
            f"{_asked(launch)}, and the cluster has {counted(total, kind)}; ask for fewer workers"
            f"{' or leave out --gpu' if launch.gpu else ''}{', or --wait for more' if grows else ''}"
        )
    if free >= launch.fewest:
        return
    try:
        while free < launch.fewest:
            if launch.wait:
                _want(kind, total - free + launch.most)
            has = f"the cluster has {counted(total, kind)}, {free} {'of them ' if total != 1 else ''}free"
            if launch.wait and told != (told := f"waiting for {counted(launch.fewest, kind)}: {has}"):
                say(told)
            elif not launch.wait and time.monotonic() - began > RELEASE_SECONDS:
                raise ValueError(f"{_asked(launch)}, and {has}; ask for fewer workers, or --wait")
            time.sleep(POLL_SECONDS)
            total, free = _room(kind)
    finally:
        if launch.wait:
            _want(kind, 0)
    if told:
        say("")


def _asked(launch: Launch) -> str:
    return f"--workers is {launch.workers}{' --gpu' if launch.gpu else ''}"


def _kind(launch: Launch) -> str:
    """Names what each worker takes one of."""
    return "GPU" if launch.gpu else "CPU"


def _room(kind: str) -> tuple[int, int]:
    """Counts what the cluster has, and what of it is free."""
    import ray

    return int(ray.cluster_resources().get(kind, 0)), int(ray.available_resources().get(kind, 0))


def _want(kind: str, count: int) -> None:
    """Lets Ray's autoscaler, where there is one, know how many there should be, those in use included.

    It knows one wish at a time: each run that waits says its own again with every look, and 0 takes any back.
    """
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{kind: 1}] * count)


def machines(kind: str = "") -> dict[str, str]:
    """Names a node on each machine of the cluster, by the machine's address; of a `kind`, those that have one of it."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and (not kind or node["Resources"].get(kind, 0) >= 1)]
    return {node["NodeManagerAddress"]: node["NodeID"] for node in nodes}


def check_folders(folders: list[Path], launch: Launch) -> None:
    """Raises ValueError when a machine that may get the launch's workers does not see the run folders of this one."""
    check_seen(folders, _others(launch))


def check_seen(folders: list[Path], nodes: dict[str, str]) -> None:
    """Raises ValueError when one of the nodes, given by address and id, lacks a folder."""
    for address, folder in _unseen(folders, nodes):
        raise ValueError(
            f"the machine at {address} does not see the run folder {folder!r}, and workers may run there; "
            "give a --run-dir on a file system that all machines share"
        )


def check_inputs(task: Task, config: Settings, launch: Launch) -> None:
    """Raises ValueError when a machine that may get the launch's workers does not see what they read on this one.

    That is the files and folders that settings name, where they are paths, and the folder of a task of one's own.
    """
    flags = {path: f"--{name.replace('_', '-')}" for name, path in _paths(config)}
    flags |= {} if task.name in TASKS else {task.folder: "the task's folder"}
    for address, path in _unseen([*flags], _others(launch)) if flags else ():
        raise ValueError(
            f"the machine at {address} does not see {flags[Path(path)]} {path!r}, and workers may run there; put it "
            "on a file system that all machines share, or train with `eagerly submit` and --storage, which takes it "
            "there"
        )


def _paths(config: Settings) -> Iterator[tuple[str, Path]]:
    """Gives what is on this machine of a configuration's paths; for a pattern, the folder of its files."""
    for name in config.PATHS:
        path = Path(str(getattr(config, name, "")))
        path = path.parent if set("*?[") & set(path.name) and not path.exists() else path
        if name != "data_dir" and path.is_absolute() and path.exists():  # a data_dir is filled where it lacks the set
            yield name, path


def _others(launch: Launch) -> dict[str, str]:
    """Names a node on each machine but this one that may get the launch's workers."""
    import ray

    others = machines(_kind(launch))
    others.pop(ray.util.get_node_ip_address(), None)
    return others


def _unseen(paths: list[Path], nodes: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Gives the first path that each of the nodes lacks, with the node's address."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not nodes:
        return
    look = ray.remote(num_cpus=0)(_missing)
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes.values()]
    words = [str(path) for path in paths]
    asked = [look.options(scheduling_strategy=place).remote(words) for place in places]
    for address, missing in zip(nodes, ray.get(asked), strict=True):
        if missing:
            yield address, missing[0]


def _missing(paths: list[str]) -> list[str]:
    from pathlib import Path

    return [path for path in paths if not Path(path).exists()]
