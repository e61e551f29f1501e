"""HTTP/2 frames made by hand, for what no well-behaved client would send.

RFC 9113 has the frames, RFC 7541 the headers, which are sent as literals and never enter a table.
"""

import contextlib
import socket
import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = struct.pack(">I", 8)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CLASSIFY = "/eagerly.v1.Classifier/Classify"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Writes a frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(path: str = CLASSIFY, **more: str) -> bytes:
    """Writes the header block of a gRPC call; underscores in further names stand for hyphens."""
    fields = {":path": path, ":authority": "localhost", "content-type": "application/grpc", "te": "trailers"}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    post, http = b"\x83", b"\x86"
    return post + http + b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields.items())


def message(body: bytes, *, compressed: bool = False) -> bytes:
    """Writes a message of gRPC."""
    return struct.pack(">?I", compressed, len(body)) + body


def _text(text: str) -> bytes:
    assert len(text) < 127, "longer texts need a longer length"
    return bytes([len(text)]) + text.encode()


class Peer:
    """One connection that sends what it is told to."""

    def __init__(self, address: str, preface: bytes = PREFACE + frame(SETTINGS, 0, 0)) -> None:
        """Connects and begins HTTP/2, unless the preface is another."""
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=5)
        self.streams = 0
        self.is_open = True
        self.send(preface)

    def stream(self) -> int:
        """Numbers the next stream."""
        self.streams += 1
        return 2 * self.streams - 1

    def send(self, data: bytes) -> None:
        """Sends bytes; marks the peer as closed when the server has had enough."""
        try:
            self._socket.settimeout(5)
            self._socket.sendall(data)
        except OSError:
            self.is_open = False

    def drain(self) -> None:
        """Throws away what has come."""
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            try:
                while self._socket.recv(1 << 16):
                    pass
            except ConnectionError:
                pass
            self.is_open = False

    def close(self) -> None:
        """Ends the connection without a word."""
        self._socket.close()
