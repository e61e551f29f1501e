"""The local store of verified models: replicas load from it, and only the process that fills it talks to the registry.

A model lies at $EAGERLY_HOME/models/<task>/<version>-<digest>, complete or not at all. Run as a module, it fetches the
champions of the tasks named and prints each as a line of JSON: importing mlflow takes seconds, so `eagerly serve` lets
a process of its own do that while Ray starts.
"""

import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines import tasks
from services.service import Service, find


@dataclass(frozen=True)
class Stored:
    """A model folder on this machine, and where it came from."""

    service: str
    """The task's name."""
    folder: str
    version: int
    run_id: str
    digest: str
    """SHA-256 of MANIFEST.json, in hexadecimal."""
    task: str = ""
    """The folder of a user's own task, absolute; empty for one of eagerly's."""


@dataclass(frozen=True)
class Loaded:
    """A model in memory, with the typed service that it answers for."""

    name: str
    """The task's name."""
    service: Service | None
    """None for a task of the user's own, which the generic RPCs alone serve."""
    model: Any
    """A task's Model: predict(inputs) and examples()."""
    version: int
    run_id: str
    digest: str

    @property
    def trailers(self) -> tuple[tuple[str, str], ...]:
        """The provenance that every reply carries as trailing metadata."""
        return (
            ("eagerly-model", self.name),
            ("eagerly-model-version", str(self.version)),
            ("eagerly-run-id", self.run_id),
            ("eagerly-model-digest", self.digest),
        )


def load(stored: Stored) -> Loaded:
    """Reads a model into memory; raises ValueError when its folder is not what its digest says."""
    from pipelines import artifact

    digest = artifact.verify(Path(stored.folder))
    if digest != stored.digest:
        raise ValueError(f"the model in {stored.folder} has the digest {digest}; {stored.digest} was expected")
    model = tasks.find(stored.task or stored.service).model.Model.load(Path(stored.folder))
    return Loaded(stored.service, find(stored.service), model, stored.version, stored.run_id, stored.digest)


def home() -> Path:
    """The folder of state and caches: $EAGERLY_HOME, or ~/.eagerly."""
    return Path(os.environ.get("EAGERLY_HOME") or Path.home() / ".eagerly").resolve()


def fetch(word: str) -> Stored:
    """Brings the champion of a task into the store, unless it lies there already.

    word: a task's name, or the folder of a user's own, whose name the registry knows its model by.
    Raises ValueError when the registry has no champion, or when its artifact is corrupt.
    """
    from pipelines import artifact, registry

    found = tasks.find(word)
    task, own = found.name, "" if word in tasks.TASKS else str(found.folder)
    version = registry.champion(task)
    folder = home() / "models" / task / f"{version.version}-{version.digest}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".incoming-") as incoming:
            registry.download(version, Path(incoming) / "model")
            _settle(Path(incoming) / "model", folder)
    digest = artifact.verify(folder)
    if digest != version.digest:
        raise ValueError(f"the registry says that {task} version {version.version} is {version.digest}; it is {digest}")
    return Stored(task, str(folder), version.version, version.run_id, digest, own)


def _settle(incoming: Path, folder: Path) -> None:
    """Verifies a download and moves it to its place; another process may have been first."""
    from pipelines import artifact

    artifact.verify(incoming)
    try:
        incoming.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(incoming)


def main(names: list[str]) -> int:
    """Fetches champions and prints them; one sentence on standard error and 2 when one cannot be had."""
    try:
        for name in names:
            print(json.dumps(asdict(fetch(name))), flush=True)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
