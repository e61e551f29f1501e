"""Reads files that together outgrow memory: through Ray Data on the cluster's processors, or file by file without Ray.

What is done to a file is a generator of small parts, each a dict of arrays; at most a few parts are in memory at once,
and they come in the order of the files and of the rows, however many processors take part.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

Part = dict[str, NDArray[Any]]
Work = Callable[[str], Iterator[Part]]
File = tuple[str, int, int]
"""Address or name, size in bytes, and time of the last change in ns."""


def files(pattern: str, suffixes: tuple[str, ...]) -> list[File]:
    """Lists the files of a folder, a pattern such as `reviews/*.parquet` or one file, here or at s3:// or gs://.

    Gives their addresses, in the order of the names.
    Raises ValueError when there are none, or the storage cannot be read.
    """
    import fnmatch

    from pyarrow import fs

    folder, _, name = pattern.rpartition("/") if any(sign in pattern for sign in "*?[") else (pattern, "", "*")
    scheme = pattern.partition("://")[0] + "://" if "://" in pattern else ""
    with _sentence(pattern):
        system, path = filesystem(folder or ".")
        found = system.get_file_info(path)
        if found.type == fs.FileType.Directory:
            inside = system.get_file_info(fs.FileSelector(path))
            entries = [entry for entry in inside if fnmatch.fnmatch(entry.base_name, name)]
        else:
            entries = [found]
    kept = [entry for entry in entries if entry.type == fs.FileType.File and entry.path.endswith(suffixes)]
    if not kept:
        raise ValueError(f"--data {pattern!r} names no {', '.join(suffixes)} file")
    return sorted((scheme + entry.path, entry.size, entry.mtime_ns or 0) for entry in kept)


def folders(address: str) -> list[str] | None:
    """Lists the names of the folders in a folder, here or at s3:// or gs://, in order; None where there is no folder.

    Raises ValueError when the storage cannot be read.
    """
    with _sentence(address):
        if "://" not in address:
            root = Path(address)
            return sorted(place.name for place in root.iterdir() if place.is_dir()) if root.is_dir() else None
        from pyarrow import fs

        system, path = filesystem(address)
        if system.get_file_info(path).type != fs.FileType.Directory:
            return None
        inside = system.get_file_info(fs.FileSelector(path))
        return sorted(entry.base_name for entry in inside if entry.type == fs.FileType.Directory)


def below(address: str) -> Iterator[File]:
    """Lists the files of a folder and of the folders in it, by their names from there, in no order.

    Links to files count, links to folders do not. Raises ValueError when the storage cannot be read.
    """
    with _sentence(address):
        if "://" not in address:
            for folder, _, names in os.walk(address):
                for path in (Path(folder, name) for name in names):
                    if path.is_file():
                        about = path.stat()
                        yield path.relative_to(address).as_posix(), about.st_size, about.st_mtime_ns
            return
        from pyarrow import fs

        system, path = filesystem(address)
        for entry in system.get_file_info(fs.FileSelector(path, recursive=True)):
            if entry.type == fs.FileType.File:
                yield entry.path.removeprefix(f"{path}/"), entry.size, entry.mtime_ns or 0


def reader(folder: str) -> Callable[[str], bytes]:
    """Gives what reads a folder's files by their names from there, here or at s3:// or gs://, and raises OSError."""
    if "://" not in folder:
        return lambda name: Path(folder, name).read_bytes()
    system, path = filesystem(folder)

    def read(name: str) -> bytes:
        with system.open_input_stream(f"{path}/{name}") as file:
            return file.read()

    return read


@contextmanager
def _sentence(address: str) -> Iterator[None]:
    """Turns what a storage that cannot be read makes pyarrow raise into one sentence."""
    try:
        yield
    except (OSError, ValueError) as problem:
        raise ValueError(f"--data {address!r} cannot be read ({str(problem).splitlines()[0]})") from problem


def filesystem(address: str) -> tuple[Any, str]:
    """Gives what reads an address, and the path there; raises OSError when it cannot be reached."""
    from pyarrow import fs

    if "://" in address:
        return fs.FileSystem.from_uri(address)
    return fs.LocalFileSystem(), address


def through(items: list[str], work: Work) -> Iterator[Part]:
    """Gives the parts that `work` makes of each file, in order; on the cluster where this process has joined one.

    An item is a file's address, or what else tells `work` which files to read. `work` must be picklable. Raises the
    ValueError with which it refused a file.
    """
    import ray

    if not ray.is_initialized() or _is_worker_of_full_cluster():
        for item in items:
            yield from work(item)
        return
    from ray import data
    from ray.exceptions import RayError

    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the run's own display says what goes on
    rows = data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
    packed: Any = _Packed(work)
    try:
        batch: Any
        for batch in rows.map_batches(packed, batch_size=1).iter_batches(batch_size=1, prefetch_batches=1):
            yield load(batch["part"][0])
    except RayError as problem:
        raise _cause(problem) from problem


def _is_worker_of_full_cluster() -> bool:
    """Says whether Ray Data would wait for processors that this process and others like it hold until it is done."""
    import ray

    is_worker = ray.get_runtime_context().worker.mode == ray.WORKER_MODE
    return is_worker and ray.available_resources().get("CPU", 0) < 1


class _Packed:
    """Makes one value of each part, since the columns of a part differ in length."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for part in self._work(str(batch["item"][0])):
            packed = np.empty(1, dtype=object)
            packed[0] = save({name: np.ascontiguousarray(values) for name, values in part.items()})
            yield {"part": packed}


def _cause(problem: BaseException) -> BaseException:
    """Finds the ValueError that a file was refused with, in what Ray wraps it in."""
    inner: BaseException | None = problem
    while inner is not None:
        if isinstance(inner, ValueError) and type(inner).__name__ == "ValueError":
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return problem
