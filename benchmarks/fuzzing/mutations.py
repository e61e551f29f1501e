"""Changes to a message's bytes that may leave it valid, or not."""

import random
from collections.abc import Callable

INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80" * 10,
    b"\xff" * 10 + b"\x01",
    b"\x0a\xff\xff\xff\xff\x0f",
    b"\x0b\x0c",
)


def mutated(body: bytes, draw: random.Random) -> bytes:
    """Changes a message in one to four places."""
    for _ in range(draw.randint(1, 4)):
        body = draw.choice(_CHANGES)(body, draw)
    return body


def _flip(body: bytes, draw: random.Random) -> bytes:
    if not body:
        return body
    at = draw.randrange(len(body))
    return body[:at] + bytes([body[at] ^ 1 << draw.randrange(8)]) + body[at + 1 :]


def _overwrite(body: bytes, draw: random.Random) -> bytes:
    at, new = draw.randint(0, len(body)), draw.choice(INTERESTING)
    return body[:at] + new + body[at + len(new) :]


def _insert(body: bytes, draw: random.Random) -> bytes:
    at = draw.randint(0, len(body))
    return body[:at] + draw.choice((*INTERESTING, draw.randbytes(draw.randint(1, 8)))) + body[at:]


def _cut(body: bytes, draw: random.Random) -> bytes:
    start, end = sorted((draw.randint(0, len(body)), draw.randint(0, len(body))))
    return body[:start] + body[end:] if draw.random() < 0.5 else body[:end]


def _double(body: bytes, draw: random.Random) -> bytes:
    start, end = sorted((draw.randint(0, len(body)), draw.randint(0, len(body))))
    return (body[:end] + body[start:end] + body[end:]) if len(body) < 50_000 else body


def _near_start(body: bytes, draw: random.Random) -> bytes:
    """Changes one of the first bytes, where the tags and lengths of most messages are."""
    at = draw.randrange(min(24, len(body))) if body else 0
    return body[:at] + draw.randbytes(1) + body[at + 1 :]


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _overwrite, _insert, _cut, _double, _near_start)
