"""Files that others replace while an endpoint runs: certificates, tokens, keys."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Value = TypeVar("Value")
Stamp = tuple[tuple[int, ...] | None, ...]


class Watched(Generic[Value]):
    """Holds what was last read well from files; broken or half-written ones change nothing and are logged once."""

    def __init__(self, files: dict[str, Path], parse: Callable[..., Value]) -> None:
        """Reads the files; raises ValueError naming the flag of one that cannot be read or parsed.

        files: the flag that names each. parse: takes their bytes, in that order, and raises ValueError.
        """
        self._files = files
        self._parse = parse
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._value = self._read()

    def current(self) -> Value:
        """Reads the files again if they have changed, links followed; costs one stat a file."""
        with self._lock:
            stamp = self._stamp()  # before reading, so that what is replaced meanwhile is read once more
            if stamp != self._seen:
                self._seen = stamp
                try:
                    self._value = self._read()
                except ValueError as problem:
                    log.error("%s; what was read before stays in force", problem)  # noqa: TRY400
                else:
                    log.info("%s: read again", " ".join(self._files))
            return self._value

    def _read(self) -> Value:
        contents = []
        for flag, path in self._files.items():
            try:
                contents.append(path.read_bytes())
            except OSError as problem:
                raise ValueError(f"{flag} {path} cannot be read ({problem.strerror})") from None
        return self._parse(*contents)

    def _stamp(self) -> Stamp:
        return tuple(_stamp(path) for path in self._files.values())


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Tells one state of a file from the next: a swapped link changes the inode, a write the times or the size."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
