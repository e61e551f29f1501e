"""A storage: another folder, s3:// or gs://, where folders are whole or ignored; and a run that is fetched from it."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines import journal, sealed

ABOUT = "run.json"
ANSWER_SECONDS, ATTEMPTS = 10, 2
ROUGH = ".rough"
"""How the name of a file ends that is not whole yet."""


class Storage:
    """Folders of files below one address. Every method raises OSError when the storage is away or refuses."""

    def __init__(self, address: str) -> None:
        """Connects to nothing yet. Raises ValueError for an address that cannot be one."""
        self.address = address.rstrip("/")
        self._system, self._base = _open(self.address)
        self._is_local = "://" not in address or address.startswith("file://")

    def holds(self, folder: Path) -> bool:
        """Whether a folder of this machine is the very one that its copy there would be."""
        return self._is_local and os.path.realpath(f"{self._base}/{folder.name}") == os.path.realpath(folder)

    def names(self, folder: str) -> dict[str, bool]:
        """Lists the folders in a folder, and whether each is whole: its manifest is written last."""
        found = self._list(folder, deep=True)
        depth = len(folder.split("/"))
        named = {path.split("/")[depth] for path in found if path.count("/") > depth}
        return {name: f"{folder}/{name}/{sealed.MANIFEST}" in found for name in sorted(named)}

    def files(self, folder: str) -> list[str]:
        """Lists the files right in a folder."""
        return list(self.sizes(folder))

    def tree(self, folder: str) -> list[str]:
        """Lists the files in a folder and below, by their names in it."""
        return sorted(self.sizes(folder, deep=True))

    def sizes(self, folder: str, deep: bool = False) -> dict[str, int]:
        """Lists the files in a folder, or those below too, by their names in it, with their sizes in bytes."""
        found = self._list(folder, deep)
        return {path[len(folder) + 1 :]: size for path, size in found.items() if not _is_rough(path)}

    def push_sealed(self, folder: Path, name: str) -> None:
        """Copies a sealed folder: its manifest last, once the other files have their sizes there."""
        for left in Path(self._base, name).glob(f".*{ROUGH}") if self._is_local else ():
            left.unlink(missing_ok=True)  # by a process that was killed
        files = [path for path in sorted(folder.iterdir()) if path.name != sealed.MANIFEST]
        for path in files:
            self.push(path, f"{name}/{path.name}")
        sizes = self.sizes(name)
        for path in files:
            here, there = path.stat().st_size, sizes.get(path.name)
            if there != here:
                raise OSError(f"{name}/{path.name} has {there} bytes there after {here} were written")
        self.push(folder / sealed.MANIFEST, f"{name}/{sealed.MANIFEST}")

    def push(self, path: Path, name: str) -> None:
        """Copies a file; the one there is the old one until the new one is whole."""
        target = f"{self._base}/{name}"
        if self._is_local:
            _put(path, Path(target))
            return
        with path.open("rb") as file, self._system.open_output_stream(target) as stream:
            while piece := file.read(1 << 22):
                stream.write(piece)

    def read(self, name: str) -> bytes:
        """Reads a small file."""
        with self._system.open_input_stream(f"{self._base}/{name}") as stream:
            return stream.read()

    def fetch(self, name: str, path: Path) -> None:
        """Copies a file here, which is whole or absent."""
        rough = path.with_name(f".{path.name}.{os.getpid()}.rough")
        with self._system.open_input_stream(f"{self._base}/{name}") as stream, rough.open("wb") as file:
            while piece := stream.read(1 << 22):
                file.write(piece)
        sealed.move(rough, path)

    def fetch_sealed(self, name: str, place: Path) -> None:
        """Copies a sealed folder here. Raises sealed.Corrupt when it is not what its manifest says."""
        rough = place.with_name(f".{place.name}.{os.getpid()}.rough")
        shutil.rmtree(rough, ignore_errors=True)
        rough.mkdir(parents=True)
        try:
            for file in self.files(name):
                self.fetch(f"{name}/{file}", rough / file)
            sealed.verify(rough)
            sealed.move(rough, place)
        finally:
            shutil.rmtree(rough, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Deletes a folder, its manifest first."""
        with contextlib.suppress(FileNotFoundError):
            self._system.delete_file(f"{self._base}/{name}/{sealed.MANIFEST}")
        with contextlib.suppress(FileNotFoundError):
            self._system.delete_dir(f"{self._base}/{name}")

    def _list(self, folder: str, deep: bool) -> dict[str, int]:
        """Lists files by their names below the address, with their sizes in bytes."""
        from pyarrow import fs

        where = fs.FileSelector(f"{self._base}/{folder}", recursive=deep, allow_not_found=True)
        found = self._system.get_file_info(where)
        return {info.path[len(self._base) + 1 :]: info.size for info in found if info.type == fs.FileType.File}


def fetch_run(address: str, below: Path, say: Callable[[str], None] | None = None) -> Path:
    """Brings the description and the journal of a run here, to a folder of its name below `below`.

    A folder that is there already is taken if it is the same run's, and catches up with what the run did elsewhere;
    `say`, or standard error, is told where both went on. Checkpoints follow when the run goes on.
    Raises ValueError when the storage is away, or there is no run at the address.
    """
    parent, _, name = address.rstrip("/").rpartition("/")
    storage, folder = Storage(parent), below / name
    try:
        files = storage.files(name)
        if ABOUT not in files:
            raise ValueError(f"{address!r} holds no run: there is no {ABOUT} in it")
        about = storage.read(f"{name}/{ABOUT}")
        if (folder / ABOUT).exists():
            if identify(about) not in (None, identify((folder / ABOUT).read_bytes())):
                raise ValueError(f"{str(folder)!r} is another run than {address!r}; move it away to resume that one")
            if journal.NAME in files:
                _catch_up(storage, name, folder, say or _say)
            return folder
        if identify(about) is None:
            raise ValueError(f"{address!r} holds no run that can be read: its {ABOUT} is damaged")
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(files, key=lambda file: file == ABOUT):
            storage.fetch(f"{name}/{file}", folder / file)
    except OSError as problem:
        raise ValueError(f"{address!r} {sentence(problem)}") from problem
    return folder


def keep_apart(storage: Storage, name: str, folder: Path) -> str:
    """Brings the journal of a run here under another name, which it gives, unless the one here goes on from it."""
    with _journal_there(storage, name, folder) as there:
        return "" if _begins(folder / journal.NAME, there) else _keep(there)


def _catch_up(storage: Storage, name: str, folder: Path, say: Callable[[str], None]) -> None:
    """Takes what a run did elsewhere since it left a folder: the longer journal, and the files beside it."""
    here, place = folder / journal.NAME, f"{storage.address}/{name}"
    with _journal_there(storage, name, folder) as there:
        if _begins(here, there):
            return
        apart = f"the run went on both in {str(folder)!r} and from {place!r}; the journal"
        if journal.size(folder) >= there.stat().st_size:
            say(f"{apart} there is the shorter one, and kept here as {_keep(there)}")
            return
        for file in storage.files(name):
            if file not in (ABOUT, journal.NAME):
                storage.fetch(f"{name}/{file}", folder / file)
        if about := _parse(storage.read(f"{name}/{ABOUT}")):
            word = (_parse((folder / ABOUT).read_bytes()) or about).get("word")  # a user's task has its place here
            sealed.put(folder / ABOUT, json.dumps({**about, "word": word}, indent=2) + "\n")
        if here.exists() and not _begins(there, here):
            say(f"{apart} here is the shorter one, and kept as {_keep(here)}")
        sealed.move(there, here)


@contextlib.contextmanager
def _journal_there(storage: Storage, name: str, folder: Path) -> Iterator[Path]:
    """Gives a copy of a run's journal, for a while."""
    there = folder / ".journal.there"
    storage.fetch(f"{name}/{journal.NAME}", there)
    try:
        yield there
    finally:
        there.unlink(missing_ok=True)


def _begins(path: Path, start: Path) -> bool:
    """Whether a file begins with all that is in another."""
    if not path.exists():
        return False
    with path.open("rb") as file, start.open("rb") as other:
        while piece := other.read(1 << 20):
            if file.read(len(piece)) != piece:
                return False
    return True


def _keep(path: Path) -> str:
    """Renames a journal by its content, so that it meets no other; returns the new name."""
    kept = path.with_name(f"journal-{sealed.hash_file(path)[:12]}.jsonl")
    sealed.move(path, kept)
    return kept.name


def identify(about: bytes) -> str | None:
    """Reads a run's id from its description; None where that is damaged, as by a process that was killed."""
    found = _parse(about)
    return None if found is None else found.get("id", "")


def _parse(about: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(about)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _say(text: str) -> None:
    print(f"eagerly: {text}", file=sys.stderr, flush=True)


def _is_rough(path: str) -> bool:
    return path.endswith(ROUGH) and path.rpartition("/")[2].startswith(".")


def _put(path: Path, target: Path) -> None:
    """Copies a file to a folder of this machine, unless it is that very file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(path):
        return
    rough = target.with_name(f".{target.name}.{os.getpid()}{ROUGH}")
    try:
        shutil.copyfile(path, rough)
        sealed.move(rough, target)
    finally:
        rough.unlink(missing_ok=True)


def sentence(problem: OSError) -> str:
    """Says what a storage complains about."""
    return f"cannot be reached or written ({' '.join(str(problem).split())[:300]})"


def _open(address: str) -> tuple[Any, str]:
    """Finds the file system of an address, and the path in it."""
    from pyarrow import fs

    if "://" not in address:
        return fs.LocalFileSystem(), str(Path(address).resolve())
    parts = urlsplit(address)
    path = f"{parts.netloc}{parts.path}"
    if parts.scheme == "s3":
        endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
        where = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme} if endpoint.netloc else {}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        patience = {"connect_timeout": ANSWER_SECONDS, "request_timeout": ANSWER_SECONDS}
        retries = fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
        return fs.S3FileSystem(**where, **patience, region=region, retry_strategy=retries), path
    if parts.scheme in ("gs", "gcs"):
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=ANSWER_SECONDS)), path
    if parts.scheme == "file":
        return fs.LocalFileSystem(), parts.path
    raise ValueError(f"--storage is {address!r}; it must be a folder, s3://BUCKET/... or gs://BUCKET/...")
