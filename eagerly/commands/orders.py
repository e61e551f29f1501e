"""What `eagerly submit` makes of a command line: the order of a job, and all that its cluster must be able to reach."""

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines import tasks
from pipelines import tracking as store
from pipelines.settings import Launch, Settings

if TYPE_CHECKING:
    from eagerly.commands.submit import Wish
    from pipelines.jobs import Cluster, Job, Order

LOOPBACK = ("localhost", "127.0.0.1", "::1")
READ = ("data", "ratings", "items")
"""Settings that name what must be there, where others may be names of a hub or folders that are filled."""


def make(wish: "Wish", there: "Cluster", word: str, code: Path, earlier: "Job | None" = None) -> "Order":
    """Makes the order of a job, and uploads its files unless nothing is to be submitted.

    `earlier` is the job that it goes on with. Raises ValueError for what the cluster cannot reach.
    """
    from pipelines.jobs import Order

    here = there.is_here()
    launch, run_dir = _place(wish, there, here, earlier)
    _check_done(wish.submit.name, run_dir)
    environment = _environment(wish, there.address, here, earlier)
    config = _files(wish, here, earlier)
    submit, given = wish.submit, [*words_of(config), *words_of(launch)]
    folder = "" if wish.word in tasks.TASKS else str(tasks.find(wish.word).folder)
    return Order(
        submit.name, word, given, code, run_dir, submit.priority, submit.restarts, environment, folder, submit.again
    )


def _environment(wish: "Wish", address: str, here: bool, earlier: "Job | None") -> dict[str, str]:
    """Names where the run is logged, which is where it was where it goes on, and the commit it is of."""
    known = {} if earlier is None or os.environ.get("MLFLOW_TRACKING_URI") else earlier.environment
    made = {"MLFLOW_TRACKING_URI": tracking(wish, address, here, known.get("MLFLOW_TRACKING_URI", ""))}
    if here:
        before = known.get("EAGERLY_JOB_FOLDER", "")
        made["EAGERLY_JOB_FOLDER"] = before if before and Path(before).is_dir() else str(Path.cwd())  # of its mlruns/
    if commit := _commit(wish.word):
        made["EAGERLY_COMMIT"] = commit
    return made


def _check_done(name: str, run_dir: str) -> None:
    """Raises ValueError when a name's run is done; one that is not goes on."""
    from pipelines.journal import Reader

    if run_dir and any(event["event"] == "test" for event in Reader(Path(run_dir)).new_events()):
        raise ValueError(f"the job name {name!r} is taken by a run that is done, in {run_dir!r}; give another --name")


def _place(wish: "Wish", there: "Cluster", here: bool, earlier: "Job | None") -> tuple[Launch, str]:
    """Says where the run's folder is: in a folder that all machines share, or on the cluster, copied to a storage.

    The run of an earlier job is where it was, unless the command line says otherwise.
    """
    launch, name = wish.launch, wish.submit.name
    if launch.run_dir:
        return replace(launch, run_dir=""), str(Path(launch.run_dir).resolve()) if here else launch.run_dir
    storage = launch.storage
    if storage and "://" not in storage:
        folder = Path(storage).resolve() if here else Path(storage)
        check_whole(folder, "--storage", "the shared folder")
        return replace(launch, storage=""), str(folder / name)
    before = earlier.plan.get("run_dir") if earlier else None
    machines = len(there.nodes())
    if machines > 1 and not storage and not before:
        raise ValueError(
            f"the cluster has {machines} machines, and a run needs a folder that all of them see; "
            "name it with --storage"
        )
    if before is not None:
        return launch, before
    return launch, str(Path("runs").resolve() / name) if here else ""


def check_whole(folder: Path, flag: str, what: str) -> None:
    """Raises ValueError for a folder of another machine that is not named by its whole path."""
    if not folder.is_absolute():
        raise ValueError(f"{flag} is {str(folder)!r}; name {what} by its whole path")


def _files(wish: "Wish", here: bool, earlier: "Job | None") -> Settings:
    """Makes the files that the configuration names reachable from the cluster. Raises ValueError when they are not."""
    from pipelines import runs

    config, storage = wish.config, wish.launch.storage
    if here:
        return runs.absolute(config)
    for name in config.PATHS:
        value = str(getattr(config, name, ""))
        flag = "--" + name.replace("_", "-")
        if earlier is not None and f"{flag}={value}" in earlier.words:
            continue  # it was reachable
        if value.startswith("file:///"):
            config = replace(config, **{name: value.removeprefix("file://")})
        elif not value or "://" in value:
            continue
        elif (path := Path(value)).exists():
            config = replace(config, **{name: _upload(wish, flag, path.resolve(), storage)})
        elif any(path.parent.glob(path.name)):
            raise ValueError(
                f"{flag} is {value!r}, a pattern of files on this machine; name their folder, which is uploaded whole"
            )
        elif name in READ:
            raise ValueError(
                f"{flag} is {value!r}, which is not here; a path of the cluster's is given as file:///PATH"
            )
    return config


def _upload(wish: "Wish", flag: str, path: Path, storage: str) -> str:
    """Uploads a file or folder; where nothing is to be submitted, says to where it would be."""
    from pipelines import uploads

    if not storage or ("://" not in storage and not Path(storage).is_dir()):
        seen = f"and --storage {storage!r} is no folder here" if storage else "and the job has no --storage"
        raise ValueError(
            f"{flag} {str(path)!r} is on this machine, {seen}; add --storage with s3://BUCKET/..., gs://BUCKET/... or "
            "a folder that both see, or give a path of the cluster's as file:///PATH"
        )
    if wish.submit.dry_run:
        found = uploads.find_place(path, storage)
        wish.notes.append(f"{flag:<10} would be uploaded, unless it is there: {found}")
        return found
    found, new = uploads.send(path, storage)
    wish.notes.append(f"{flag:<10} {'uploaded' if new else 'is there already, not uploaded again'}: {found}")
    return found


def tracking(wish: "Wish", address: str, here: bool, known: str = "") -> str:
    """Names the tracking store for the job, `known` where it has one. Raises ValueError for one it cannot reach."""
    uri = known or store.uri()
    parts = urlsplit(uri)
    if not here and (parts.scheme in store.ONE_MACHINE or parts.hostname in LOOPBACK):
        raise ValueError(
            f"runs are logged to {store.public(uri)!r}, which is of this machine alone, and the cluster at {address} "
            "is another; start `mlflow server` where both reach it and set MLFLOW_TRACKING_URI to its http address"
        )
    return sendable(wish, uri)


def sendable(wish: "Wish", uri: str) -> str:
    """Takes user and password out of a tracking store's address, and notes where the cluster gets them from.

    Raises ValueError for a database's, which cannot be opened without them.
    """
    shown = store.public(uri)
    if shown == uri:
        return uri
    if not uri.startswith(("http://", "https://")):
        raise ValueError(
            f"MLFLOW_TRACKING_URI is {shown!r} with a user or password, and a job's environment is shown on the "
            "dashboard; start `mlflow server` before it and set MLFLOW_TRACKING_URI to its http address"
        )
    wish.notes.append(
        "MLflow     user and password are not sent; the cluster needs MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD"
    )
    return shown


def _commit(word: str) -> str:
    return store.git_commit(tasks.find(word).folder)


def words_of(values: Any) -> Iterator[str]:
    """Writes the flags that make `values`: those without which others would be made."""
    kept = {one.name: getattr(values, one.name) for one in fields(values)}
    for name in list(kept):
        less = {other: value for other, value in kept.items() if other != name}
        if _makes(type(values), less, values):
            kept = less
    for name, value in kept.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif isinstance(value, tuple | list):
            yield from (f"--{flag}", *map(str, value))
        else:
            yield f"--{flag}={value}"


def _makes(kind: type[Any], kept: dict[str, Any], values: Any) -> bool:
    """Says whether defaults, some of which depend on what is kept, fill in the rest."""
    try:
        return kind(**kept) == values
    except (TypeError, ValueError):  # a field without a default, or one that does not go with others' defaults
        return False
