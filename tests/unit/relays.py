"""A relay between a client and a server, which sees the frames of HTTP/2 that pass, and can go deaf and dumb."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.frames import PREFACE

GOAWAY = 7


@dataclass(frozen=True)
class Frame:
    """A frame, and when it passed."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    at_s: float = field(default_factory=time.monotonic)


class Line:
    """One connection of a client, carried on to the server."""

    def __init__(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        self.asked: list[Frame] = []
        self.answered: list[Frame] = []
        self.began_s = time.monotonic()
        self.port = server.getsockname()[1]
        """The port that the server sees the client at."""
        self.ended = threading.Event()
        """Set once the server has closed the connection."""
        self._deaf = deaf
        self._ends = (client, server)
        self._threads = [
            threading.Thread(target=self._carry, args=(client, server, self.asked, len(PREFACE))),
            threading.Thread(target=self._carry, args=(server, client, self.answered, 0)),
        ]
        for thread in self._threads:
            thread.start()

    def sent(self, kind: int) -> list[Frame]:
        """The frames of a kind that the server has sent."""
        return [frame for frame in self.answered if frame.kind == kind]

    def close(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _carry(self, source: socket.socket, target: socket.socket, seen: list[Frame], skipped: int) -> None:
        unread, client = bytearray(), self._ends[0]
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                unread += data
                seen.extend(_frames(unread, skipped))
                skipped = 0 if seen else skipped
                if not self._deaf.is_set():
                    target.sendall(data)
        if source is not client:
            self.ended.set()
        if not self._deaf.is_set():
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)


def _frames(unread: bytearray, skipped: int) -> Iterator[Frame]:
    """Takes the whole frames off what has been read, and before the first so many other bytes."""
    while len(unread) >= skipped + 9:
        length = int.from_bytes(unread[skipped : skipped + 3], "big")
        head, body = unread[skipped : skipped + 9], bytes(unread[skipped + 9 : skipped + 9 + length])
        if len(body) < length:
            return
        del unread[: skipped + 9 + length]
        skipped = 0
        yield Frame(head[3], head[4], int.from_bytes(head[5:], "big"), body)


class Relay:
    """Listens for clients; each of their connections is a line to the server."""

    def __init__(self, address: str) -> None:
        self.lines: list[Line] = []
        self.deaf = threading.Event()
        """While it is set nothing is carried, and nobody is told."""
        host, port = address.rsplit(":", 1)
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def lose(self) -> None:
        """Has the connections there are carry nothing any more, and tells nobody; new ones are sound."""
        self.deaf.set()
        self.deaf = threading.Event()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for line in self.lines:
            line.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._server, timeout=5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                self.lines.append(Line(client, server, self.deaf))
