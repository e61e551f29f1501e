"""Files that others replace while an endpoint runs: certificates, tokens, keys."""

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Value = TypeVar("Value")
RETRY_S = 5.0
"""Seconds until files are read again that could not be, or not be used: a certificate may not hold yet."""
Stamp = tuple[tuple[int, ...] | None, ...]


class Watched(Generic[Value]):
    """Holds what was last read well from files; broken or half-written ones change nothing and are logged once.

    Writing a file anew may begin by emptying it, so an empty one is read when the next look finds it empty still.
    """

    def __init__(self, files: dict[str, Path], parse: Callable[..., Value]) -> None:
        """Reads the files; raises ValueError naming the flag of one that is empty, or cannot be read or parsed.

        files: the flag that names each. parse: takes their bytes, in that order, and raises ValueError; what it gives
        is falsy when there is nothing in them.
        """
        self._files = files
        self._parse = parse
        self._lock = threading.Lock()
        self._again, self._complaint = math.inf, ""
        self._seen = self._last = self._stamp()
        contents = self._read()
        for flag, content in zip(files, contents, strict=True):
            if not content:
                raise ValueError(f"{flag} {files[flag]} is empty")
        self._value = parse(*contents)

    def current(self) -> Value:
        """Reads the files again if they have changed, links followed, or failed before; costs one stat a file."""
        with self._lock:
            stamp = self._stamp()  # before reading, so that what is replaced meanwhile is read once more
            is_settled, self._last = stamp == self._last or not _is_emptied(stamp), stamp
            if is_settled and (stamp != self._seen or time.monotonic() >= self._again):
                self._seen = stamp
                self._renew()
            return self._value

    def _renew(self) -> None:
        flags = " ".join(self._files)
        try:
            self._value = self._parse(*self._read())
        except ValueError as problem:
            self._again = time.monotonic() + RETRY_S
            if self._complaint != (complaint := str(problem)):
                self._complaint = complaint
                log.error("%s; what was read before stays in force", problem)  # noqa: TRY400
        else:
            self._again, self._complaint = math.inf, ""
            if self._value:
                log.info("%s: read again", flags)
            else:
                log.warning("%s: read again, and nothing is in there now", flags)

    def _read(self) -> list[bytes]:
        contents: list[bytes] = []
        for flag, path in self._files.items():
            try:
                contents.append(path.read_bytes())
            except OSError as problem:
                raise ValueError(f"{flag} {path} cannot be read ({problem.strerror})") from None
        return contents

    def _stamp(self) -> Stamp:
        return tuple(_stamp(path) for path in self._files.values())


def _is_emptied(stamp: Stamp) -> bool:
    return any(one is not None and one[-1] == 0 for one in stamp)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Tells one state of a file from the next: a swapped link changes the inode, a write the times or the size."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
