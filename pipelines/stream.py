"""Reads files that together outgrow memory: through Ray Data on the cluster's processors, or file by file without Ray.

What is done to a file is a generator of small parts, each a dict of arrays; at most a few parts are in memory at once,
and they come in the order of the files and of the rows, however many processors take part.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

Part = dict[str, NDArray[Any]]
Work = Callable[[str], Iterator[Part]]


def files(pattern: str, suffixes: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """Lists the files of a folder, a pattern such as `reviews/*.parquet` or one file, here or at s3:// or gs://.

    Gives address, size in bytes and time of the last change in ns, in the order of the names.
    Raises ValueError when there are none, or the storage cannot be read.
    """
    import fnmatch

    from pyarrow import fs

    folder, _, name = pattern.rpartition("/") if any(sign in pattern for sign in "*?[") else (pattern, "", "*")
    scheme = pattern.partition("://")[0] + "://" if "://" in pattern else ""
    try:
        system, path = filesystem(folder or ".")
        found = system.get_file_info(path)
        if found.type == fs.FileType.Directory:
            inside = system.get_file_info(fs.FileSelector(path))
            entries = [entry for entry in inside if fnmatch.fnmatch(entry.base_name, name)]
        else:
            entries = [found]
    except OSError as problem:
        raise ValueError(f"--data {pattern!r} cannot be read ({str(problem).splitlines()[0]})") from problem
    kept = [entry for entry in entries if entry.type == fs.FileType.File and entry.path.endswith(suffixes)]
    if not kept:
        raise ValueError(f"--data {pattern!r} names no {', '.join(suffixes)} file")
    return sorted((scheme + entry.path, entry.size, entry.mtime_ns or 0) for entry in kept)


def filesystem(address: str) -> tuple[Any, str]:
    """Gives what reads an address, and the path there; raises OSError when it cannot be reached."""
    from pyarrow import fs

    if "://" in address:
        return fs.FileSystem.from_uri(address)
    return fs.LocalFileSystem(), address


def through(addresses: list[str], work: Work) -> Iterator[Part]:
    """Gives the parts that `work` makes of each file, in order; on the cluster where this process has joined one.

    `work` must be picklable. Raises the ValueError with which it refused a file.
    """
    import ray

    if not ray.is_initialized():
        for address in addresses:
            yield from work(address)
        return
    from ray import data
    from ray.exceptions import RayError

    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the run's own display says what goes on
    rows = data.from_items([{"file": address} for address in addresses], override_num_blocks=len(addresses))
    packed: Any = _Packed(work)
    try:
        batch: Any
        for batch in rows.map_batches(packed, batch_size=1).iter_batches(batch_size=1, prefetch_batches=1):
            yield load(batch["part"][0])
    except RayError as problem:
        raise _cause(problem) from problem


class _Packed:
    """Makes one value of each part, since the columns of a part differ in length."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for part in self._work(str(batch["file"][0])):
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
