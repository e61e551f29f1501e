"""The access log: a line of JSON for every call, written off the event loop.

The loop spells out calls that have ended many in a row, which costs each far less than between two calls and less than
handing the interpreter to a thread and back; five times a second a thread writes what there is at once, and spells out
what is left. When the queue is full because the disk is full or slow, lines are dropped and counted: calls never wait.
The file is opened for appending, so replicas may share one, and opened anew when it was moved or removed, as logrotate
does.
"""

import base64
import contextlib
import functools
import os
import stat
import threading
import time
from collections import deque
from json.encoder import encode_basestring_ascii
from pathlib import Path
from urllib.parse import unquote

from services import metrics, status
from services.visits import Trailers, Visit

MOST_BYTES = 16 * 1024 * 1024
"""What waits to be written at most, a call being taken for CALL_BYTES; more is dropped."""
CALL_BYTES = 1024
"""What a call that waits takes, without payloads."""
PERIOD_S = 0.2
ROW = 32
"""So many calls are spelled out in a row, in a fifth of a millisecond: by the loop or, with payloads, the thread."""
BREATH_S = 0.0005
"""So long the thread lets go of the interpreter after a row, so that no call waits for all that it spells out."""
CLOSE_S = 3.0
"""How long a slow disk may hold up the end of the process."""
_FILE_CHUNK_BYTES, _PIPE_CHUNK_BYTES = 256 * 1024, 4096
_ERROR_FD = 2

_Call = tuple[str, Visit, int, float, int, tuple[bytes, ...]]
"""What a line is made of, as _line() takes it."""


class AccessLog:
    """Writes one file; all methods are for the event loop's thread."""

    def __init__(self, path: str, payload_bytes: int, figures: metrics.Metrics) -> None:
        """Opens the file, `-` being standard error, and starts the thread; raises ValueError when it cannot.

        payload_bytes: how much of each request and reply is kept; 0 keeps nothing.
        """
        self._sink = _Sink(path)
        self._payload_bytes = payload_bytes
        self._ended: deque[_Call] = deque()
        self._rows: deque[list[bytes]] = deque()
        # Counters that are each written by one thread only need no lock.
        self._queued_count = self._queued_bytes = 0
        self._taken_count = self._taken_bytes = 0
        self._refused_count = 0
        self._dropped = figures.value(metrics.ACCESS_LOG_DROPPED)
        self._told_count = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="access-log", daemon=True)
        self._thread.start()

    @property
    def waiting_count(self) -> int:
        """Lines that are still to be written."""
        return self._queued_count - self._taken_count

    def add(self, method: str, visit: Visit, code: int, seconds: float, request: bytes, reply: bytes) -> None:
        """Queues the line of a call that has ended; reply is empty when it failed."""
        if self._queued_bytes - self._taken_bytes > MOST_BYTES:
            self._refused_count += 1
            return
        kept, payloads = self._payload_bytes, ()
        if kept:
            payloads = (request[:kept], reply[:kept])
        self._queued_count += 1
        self._queued_bytes += _held_bytes(payloads) if payloads else CALL_BYTES
        self._ended.append((method, visit, code, seconds, len(reply), payloads))
        if not kept and len(self._ended) >= ROW:
            self._rows.append([_line(*call) for call in self._take()])

    def close(self) -> None:
        """Writes what is left, waiting for a slow disk no longer than CLOSE_S."""
        self._ending.set()
        self._thread.join(CLOSE_S)

    def _work(self) -> None:
        """Writes until close(), and then once more."""
        while not self._ending.wait(PERIOD_S):
            self._flush()
        self._flush()
        self._sink.close()

    def _take(self) -> list[_Call]:
        """Takes the calls that have ended, of which the other thread may be taking some at the same time."""
        calls = []
        with contextlib.suppress(IndexError):
            for _ in range(len(self._ended)):
                calls.append(self._ended.popleft())
        return calls

    def _flush(self) -> None:
        """Writes what is in the queue by now, and says what was dropped."""
        self._sink.follow()
        row_count, last = len(self._rows), self._take()
        for _ in range(row_count):
            row = self._rows.popleft()
            for line in row:
                self._sink.write(line)
            self._taken_count += len(row)
            self._taken_bytes += len(row) * CALL_BYTES
        for number, call in enumerate(last, 1):
            self._sink.write(_line(*call))
            self._taken_count += 1
            self._taken_bytes += _held_bytes(call[-1])
            if number % ROW == 0 and not self._ending.is_set():
                time.sleep(BREATH_S)
        self._sink.finish()
        dropped_count = self._refused_count + self._sink.lost_count
        if dropped_count > self._told_count:
            self._dropped.add(dropped_count - self._told_count)
            self._told_count = dropped_count


class _Sink:
    """A file or standard error, to which whole lines are appended; for one thread."""

    def __init__(self, path: str) -> None:
        """Opens the file, and makes it where there is none; raises ValueError when it cannot."""
        self._path = "" if path == "-" else path
        self.lost_count = 0
        """Lines that could not be written."""
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._torn = False
        try:
            self._descriptor = _open(self._path) if self._path else _ERROR_FD
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"--access-log {path} cannot be opened ({reason}); name a file in a folder") from None
        plain = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        # What is longer than PIPE_BUF may be cut by what other processes write into the same pipe.
        self._chunk_bytes = _FILE_CHUNK_BYTES if plain else _PIPE_CHUNK_BYTES

    def follow(self) -> None:
        """Opens the file anew when it has been moved or removed; goes on with the old one when that fails."""
        if not self._path:
            return
        ours = os.fstat(self._descriptor)
        try:
            there = Path(self._path).stat()
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return
        except FileNotFoundError:
            pass
        except OSError:
            return
        try:
            fresh = _open(self._path)
        except OSError:
            return
        os.close(self._descriptor)
        self._descriptor, self._torn = fresh, False

    def write(self, line: bytes) -> None:
        """Takes a line, and writes those before it once they make a chunk."""
        if self._waiting_bytes + len(line) > self._chunk_bytes:
            self.finish()
        self._waiting.append(line)
        self._waiting_bytes += len(line)

    def finish(self) -> None:
        """Writes what was taken; a line that does not fit the disk is lost, the next begins on a line of its own."""
        lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not lines:
            return
        data = (b"\n" if self._torn else b"") + b"".join(lines)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, memoryview(data)[written:])
        except OSError:
            self.lost_count += min(len(lines), data[written:].count(b"\n"))
        if written:
            self._torn = data[written - 1] != ord("\n")

    def close(self) -> None:
        """Closes the file."""
        if self._path:
            os.close(self._descriptor)


def _held_bytes(payloads: tuple[bytes, ...]) -> int:
    return CALL_BYTES + sum(map(len, payloads))


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _line(method: str, visit: Visit, code: int, seconds: float, reply_bytes: int, payloads: tuple[bytes, ...]) -> bytes:
    """Writes a line; put together by hand, which takes a third of json.dumps's time."""
    queue, compute = "null", "null"
    if visit.waited is not None:
        queue, compute = f"{(visit.waited[1] - visit.waited[0]) * 1e3:.3f}", f"{visit.compute_s * 1e3:.3f}"
    left = "null" if visit.deadline_left_s is None else f"{visit.deadline_left_s * 1e3:.0f}"
    second = int(visit.came)
    line = (
        f'{{"time":"{_clock(second)}.{int((visit.came - second) * 1e3):03d}Z",'
        f'"request_id":{_quoted(visit.request_id)},'
        f'"method":"{method}","code":"{_code(code)}","duration_ms":{seconds * 1e3:.3f},'
        f'"queue_ms":{queue},"compute_ms":{compute},"items":{visit.item_count},"request_bytes":{visit.request_bytes},'
        f'"reply_bytes":{reply_bytes},{_provenance(visit.provenance)},"principal":{_quoted(visit.principal)},'
        f'"peer":"{_host(visit.peer)}","deadline_left_ms":{left}{_trace(visit)}{_payloads(*payloads)}}}\n'
    )
    return line.encode()


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(text)


_code = functools.cache(status.name)


@functools.lru_cache(maxsize=4)
def _clock(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@functools.lru_cache(maxsize=64)
def _provenance(trailers: Trailers) -> str:
    """Spells out the model that answered; one model's trailers are the same for all calls."""
    found = dict(trailers)
    keys = (("model", "model"), ("version", "model-version"), ("run_id", "run-id"), ("digest", "model-digest"))
    return ",".join(f'"{name}":{_quoted(found.get(f"eagerly-{key}"))}' for name, key in keys)


@functools.lru_cache(maxsize=1024)
def _host(peer: str) -> str:
    """Keeps the address alone: the port says nothing beyond the connection."""
    kind, _, place = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    return encode_basestring_ascii(unquote(place).rpartition(":")[0].strip("[]"))[1:-1]


def _trace(visit: Visit) -> str:
    return "" if visit.span is None else f',"trace_id":"{visit.span.get_span_context().trace_id:032x}"'


def _payloads(*beginnings: bytes) -> str:
    if not beginnings:
        return ""
    request, reply = (base64.b64encode(beginning).decode() for beginning in beginnings)
    return f',"request":"{request}","reply":"{reply}"'
