"""A user's files on their way to a cluster: to the storage, by digest, so that nothing travels twice; and back."""

import hashlib
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from pipelines import bundle, cluster, sealed
from pipelines.runs import Run
from pipelines.settings import Settings
from pipelines.storage import Storage

ADDRESS = re.compile(r"^(?P<storage>\w+://.+)/data/(?P<digest>[0-9a-f]{64})/(?P<name>[^/]+)$")
WHOLE = "WHOLE"
"""Written last beside what was uploaded; holds its name."""


def digest(path: Path) -> str:
    """Hashes a file, or a folder's files and their names. Raises ValueError when one cannot be read."""
    total = hashlib.sha256()
    try:
        for file in _files(path):
            name = file.relative_to(path).as_posix() if path.is_dir() else ""
            total.update(f"{name}\0{sealed.hash_file(file)}\0".encode())
    except OSError as problem:
        raise ValueError(f"{problem.filename or str(path)!r} cannot be read ({problem.strerror})") from problem
    return total.hexdigest()


def find_place(path: Path, address: str) -> str:
    """Says where in a storage a file or folder is, or would be, without asking it."""
    return f"{address.rstrip('/')}/data/{digest(path)}/{path.name}"


def send(path: Path, address: str) -> tuple[str, bool]:
    """Copies a file or folder to a storage unless it is there; returns its address there, and whether it was copied.

    Raises ValueError when the storage cannot be written.
    """
    there = find_place(path, address)
    place = "/".join(there.split("/")[-3:-1])
    storage = Storage(address)
    try:
        if WHOLE in storage.files(place) and storage.read(f"{place}/{WHOLE}").decode() == path.name:
            return there, False
        for file in _files(path):
            name = file.relative_to(path.parent).as_posix()
            storage.push(file, f"{place}/{name}")
        with tempfile.TemporaryDirectory(prefix="eagerly-") as rough:
            marker = Path(rough) / WHOLE
            marker.write_text(path.name)
            storage.push(marker, f"{place}/{WHOLE}")
    except OSError as problem:
        raise ValueError(
            f"--storage {address!r} cannot be written ({' '.join(str(problem).split())[:200]})"
        ) from problem
    return there, True


def brought(config: Settings) -> Settings:
    """Brings the files that a configuration names by their addresses in a storage to this machine, each once.

    Raises ValueError when the storage is away, or has something else than was uploaded.
    """
    given = {name: str(getattr(config, name, "")) for name in config.PATHS}
    remote = {name: found for name, value in given.items() if (found := ADDRESS.match(value))}
    return replace(config, **{name: str(_fetch(found)) for name, found in remote.items()}) if remote else config


def localize(run: Run) -> Run:
    """Gives a run whose files are on this machine."""
    return replace(run, config=brought(run.config))


def _fetch(found: re.Match[str]) -> Path:
    place, given = cluster.home() / "data" / found["digest"], found["name"]
    if (place / given).exists():
        return place / given
    storage, below = Storage(found["storage"]), f"data/{found['digest']}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", suffix=".rough", dir=place.parent) as made:
        rough = Path(made)
        try:
            for name in storage.tree(below):
                if name.partition("/")[0] == given:  # the same bytes may have been uploaded by other names
                    (rough / name).parent.mkdir(parents=True, exist_ok=True)
                    storage.fetch(f"{below}/{name}", rough / name)
        except OSError as problem:
            raise ValueError(f"{found.string!r} cannot be read ({' '.join(str(problem).split())[:200]})") from problem
        if not (rough / given).exists() or digest(rough / given) != found["digest"]:
            raise ValueError(f"{found.string!r} is not what was uploaded; submit the job again, which uploads it anew")
        try:
            place.mkdir(exist_ok=True)
            (rough / given).rename(place / given)
        except OSError:
            if not (place / given).exists():  # else another worker was first
                raise
    return place / given


def _files(path: Path) -> list[Path]:
    return sorted(file for file in bundle.below(path) if file.is_file()) if path.is_dir() else [path]
