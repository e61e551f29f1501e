"""A run's folder in a storage: another folder, s3:// or gs://, whole or ignored, and never in training's way."""

import contextlib
import json
import os
import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from pipelines import checkpoint, sealed

RETRY_SECONDS = 5.0
LAST_ATTEMPTS, LAST_SECONDS = 3, 0.5
"""How often, and after what pause, a storage that is away is asked at a run's end."""
ABOUT, FINISHED = "run.json", "artifact"
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

    def push(self, path: Path, name: str) -> None:
        """Copies a file, or a sealed folder with its manifest last."""
        if path.is_dir():
            for file in sorted(path.iterdir(), key=lambda file: file.name == sealed.MANIFEST):
                self.push(file, f"{name}/{file.name}")
            return
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
        rough.rename(path)

    def fetch_sealed(self, name: str, place: Path) -> None:
        """Copies a sealed folder here. Raises sealed.Corrupt when it is not what its manifest says."""
        rough = place.with_name(f".{place.name}.{os.getpid()}.rough")
        shutil.rmtree(rough, ignore_errors=True)
        rough.mkdir(parents=True)
        try:
            for file in self.files(name):
                self.fetch(f"{name}/{file}", rough / file)
            sealed.verify(rough)
            rough.rename(place)
        finally:
            shutil.rmtree(rough, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Deletes a folder, its manifest first."""
        with contextlib.suppress(FileNotFoundError):
            self._system.delete_file(f"{self._base}/{name}/{sealed.MANIFEST}")
        with contextlib.suppress(FileNotFoundError):
            self._system.delete_dir(f"{self._base}/{name}")

    def _list(self, folder: str, deep: bool) -> set[str]:
        from pyarrow import fs

        where = fs.FileSelector(f"{self._base}/{folder}", recursive=deep, allow_not_found=True)
        found = self._system.get_file_info(where)
        return {info.path[len(self._base) + 1 :] for info in found if info.type == fs.FileType.File}


class Mirror:
    """Copies a run's folder to a storage from a thread of its own: journal and description, then checkpoints."""

    def __init__(self, address: str, run_dir: Path) -> None:
        """Begins when it is first woken. Raises ValueError for an address that cannot be one."""
        self._storage, self._run_dir, self._name = Storage(address), run_dir, run_dir.name
        self._idle = "://" not in address and Path(address).resolve() == run_dir.resolve().parent
        self._woken, self._closing, self._whole = threading.Event(), threading.Event(), False
        self._thread: threading.Thread | None = None
        self._said: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._problem = ""
        self._ours = False

    def wake(self) -> None:
        """Says that there is something new to copy."""
        if not self._idle:
            self._woken.set()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._follow, name="storage", daemon=True)
                self._thread.start()

    def problems(self) -> list[dict[str, Any]]:
        """Gives the events since the last call: the storage went away, or came back."""
        return [self._said.get() for _ in range(self._said.qsize())]

    def close(self, patience_seconds: float, whole: bool) -> None:
        """Copies what is new, the model too if the run is whole; gives up when that takes too long."""
        self._whole = whole
        self._closing.set()
        self.wake()
        if self._thread is not None:
            self._thread.join(patience_seconds)
            if self._thread.is_alive():
                self._say(f"is slow: after {patience_seconds:.0f} s it does not have everything")

    def forget_after(self, step: int) -> None:
        """Copies what is left here, and deletes the checkpoints of later steps there."""
        self.close(LAST_ATTEMPTS * ANSWER_SECONDS, whole=False)
        try:
            for name in [] if self._idle else self._storage.names(f"{self._name}/checkpoints"):
                if checkpoint.step_of(name) > step:
                    self._storage.remove(f"{self._name}/checkpoints/{name}")
        except OSError as problem:
            self._say(_sentence(problem))
        self._closing.clear()

    def fetch_newer(self) -> None:
        """Brings the newest whole checkpoint here if it is newer than the whole ones here."""
        if self._idle:
            return
        folder = self._run_dir / "checkpoints"
        newest = max((place.name for place in checkpoint.whole(folder)), default="")
        try:
            self._check_ours()
            there = self._storage.names(f"{self._name}/checkpoints")
            for name in sorted((name for name, whole in there.items() if whole and name > newest), reverse=True):
                with contextlib.suppress(sealed.Corrupt):
                    shutil.rmtree(folder / name, ignore_errors=True)
                    self._storage.fetch_sealed(f"{self._name}/checkpoints/{name}", folder / name)
                    return
        except OSError as problem:
            self._say(_sentence(problem))

    def _follow(self) -> None:
        attempts_left = LAST_ATTEMPTS
        while attempts_left:
            self._woken.wait()
            self._woken.clear()
            closing = self._closing.is_set()
            try:
                self._copy()
                self._say("")
                if closing:
                    return
            except OSError as problem:
                self._say(_sentence(problem))
                self._woken.set()
                attempts_left -= closing
                time.sleep(LAST_SECONDS) if closing else self._closing.wait(RETRY_SECONDS)
            except ValueError as problem:
                self._say(str(problem))
                return

    def _copy(self) -> None:
        """Makes the storage hold what is here; deletes there only what is older than a whole checkpoint there."""
        self._check_ours()
        for path in sorted(self._run_dir.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                self._storage.push(path, f"{self._name}/{path.name}")
        there = self._storage.names(f"{self._name}/checkpoints")
        here = [place.name for place in checkpoint.steps(self._run_dir / "checkpoints")]
        for name in here:
            if not there.get(name):
                try:
                    self._storage.push(self._run_dir / "checkpoints" / name, f"{self._name}/checkpoints/{name}")
                except FileNotFoundError:
                    if (self._run_dir / "checkpoints" / name).exists():
                        raise  # else it was pruned meanwhile, and what is there of it is not whole
        for name in there:
            if here and name not in here and name < max(here):
                self._storage.remove(f"{self._name}/checkpoints/{name}")
        if self._whole and (self._run_dir / FINISHED).is_dir():
            self._storage.push(self._run_dir / FINISHED, f"{self._name}/{FINISHED}")

    def _check_ours(self) -> None:
        """Raises ValueError when the storage holds another run of this name."""
        about = self._run_dir / ABOUT
        if self._ours or not about.exists() or ABOUT not in self._storage.files(self._name):
            return
        if _id(self._storage.read(f"{self._name}/{ABOUT}")) != _id(about.read_bytes()):
            address = f"{self._storage.address}/{self._name}"
            raise ValueError(f"{address!r} holds another run; give this one another name by --run-dir")
        self._ours = True

    def _say(self, problem: str) -> None:
        """Notes an event when the storage goes away or comes back, not at every attempt."""
        if bool(problem) != bool(self._problem):
            text = f"{self._storage.address!r} {problem}; training goes on, and copying is tried again"
            self._said.put({"event": "storage", "problem": text if problem else ""})
        self._problem = problem


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
            if _id((folder / ABOUT).read_bytes()) != _id(storage.read(f"{name}/{ABOUT}")):
                raise ValueError(f"{str(folder)!r} is another run than {address!r}; move it away to resume that one")
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(files, key=lambda file: file == ABOUT):
            storage.fetch(f"{name}/{file}", folder / file)
    except OSError as problem:
        raise ValueError(f"{address!r} {_sentence(problem)}") from problem
    return folder


def _id(about: bytes) -> str:
    return json.loads(about).get("id", "")


def _sentence(problem: OSError) -> str:
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
