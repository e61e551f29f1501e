"""A storage: another folder, s3:// or gs://, where folders are whole or ignored; and a run that is fetched from it."""

import contextlib
import json
import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines import sealed

ABOUT = "run.json"
ANSWER_SECONDS, ATTEMPTS = 10, 2


class Storage:
    """Folders of files below one address. Every method raises OSError when the storage is away or refuses."""

    def __init__(self, address: str) -> None:
        """Connects to nothing yet. Raises ValueError for an address that cannot be one."""
        self.address = address.rstrip("/")
        self._system, self._base = _open(self.address)
        self._makes_folders = "://" not in address or address.startswith("file://")

    def names(self, folder: str) -> dict[str, bool]:
        """Lists the folders in a folder, and whether each is whole: its manifest is written last."""
        found = self._list(folder, deep=True)
        depth = len(folder.split("/"))
        named = {path.split("/")[depth] for path in found if path.count("/") > depth}
        return {name: f"{folder}/{name}/{sealed.MANIFEST}" in found for name in sorted(named)}

    def files(self, folder: str) -> list[str]:
        """Lists the files right in a folder."""
        return [path.rpartition("/")[2] for path in self._list(folder, deep=False)]

    def tree(self, folder: str) -> list[str]:
        """Lists the files in a folder and below, by their names in it."""
        return sorted(path[len(folder) + 1 :] for path in self._list(folder, deep=True))

    def push_sealed(self, folder: Path, name: str) -> None:
        """Copies a sealed folder: its manifest last, once the other files have their sizes there."""
        files = [path for path in sorted(folder.iterdir()) if path.name != sealed.MANIFEST]
        for path in files:
            self.push(path, f"{name}/{path.name}")
        sizes = self._list(name, deep=False)
        for path in files:
            here, there = path.stat().st_size, sizes.get(f"{name}/{path.name}")
            if there != here:
                raise OSError(f"{name}/{path.name} has {there} bytes there after {here} were written")
        self.push(folder / sealed.MANIFEST, f"{name}/{sealed.MANIFEST}")

    def push(self, path: Path, name: str) -> None:
        """Copies a file."""
        target = f"{self._base}/{name}"
        if self._makes_folders:
            self._system.create_dir(target.rpartition("/")[0])
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


def fetch_run(address: str, below: Path) -> Path:
    """Brings the description and the journal of a run here, to a folder of its name below `below`.

    A folder that is there already is taken if it is the same run's. Checkpoints follow when the run goes on.
    Raises ValueError when the storage is away, or there is no run at the address.
    """
    parent, _, name = address.rstrip("/").rpartition("/")
    storage, folder = Storage(parent), below / name
    try:
        files = storage.files(name)
        if ABOUT not in files:
            raise ValueError(f"{address!r} holds no run: there is no {ABOUT} in it")
        if (folder / ABOUT).exists():
            if identify((folder / ABOUT).read_bytes()) != identify(storage.read(f"{name}/{ABOUT}")):
                raise ValueError(f"{str(folder)!r} is another run than {address!r}; move it away to resume that one")
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(files, key=lambda file: file == ABOUT):
            storage.fetch(f"{name}/{file}", folder / file)
    except OSError as problem:
        raise ValueError(f"{address!r} {sentence(problem)}") from problem
    return folder


def identify(about: bytes) -> str:
    """Reads a run's id from its description."""
    return json.loads(about).get("id", "")


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
