"""Makes typed calls, good and bad: sizes x shapes x forms."""

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from benchmarks.fuzzing.oracle import MOST_BYTES, MOST_ITEMS
from benchmarks.target import SIDE, Target
from eagerly.v1 import classifier_pb2, recommender_pb2, sentiment_pb2

LENGTHS = (-(2**63), -SIDE, -1, 0, 1, 2, 3, 4, 27, 28, 29, 784, 65_535, 65_536, 2**31, 2**32 + 28, 2**62, 2**63 - 1)
NUMBERS = (-(2**31), -1, 0, 1, 2, 3, 9, 10, 11, 1000, 2**31 - 1)
CONFIDENCES = (0.0, 0.5, 1.0, -0.0, 1.0000001, -0.5, 2.0, float("nan"), float("inf"), float("-inf"), 1e-45)
TEXTS = (
    "fine",
    "",
    " ",
    "\u3000\n\t",
    "好看的电影",
    "\x00",
    "a" * 10_000,
    "b" * 10_001,
    "\U0001f600" * 30,
    "\u0301",
    "\u200b",
)


def classify(draw: random.Random, target: Target) -> bytes:
    """Makes a ClassifyRequest."""
    request = classifier_pb2.ClassifyRequest(images=[_image(draw) for _ in range(_count(draw))])
    if draw.random() < 0.3:
        request.top_k = draw.choice(NUMBERS)
    _doubt(request, draw)
    return request.SerializeToString()


def analyze(draw: random.Random, target: Target) -> bytes:
    """Makes an AnalyzeRequest."""
    request = sentiment_pb2.AnalyzeRequest(texts=[_text(draw) for _ in range(_count(draw))])
    _doubt(request, draw)
    return request.SerializeToString()


def recommend(draw: random.Random, target: Target) -> bytes:
    """Makes a RecommendRequest."""
    queries = [_query(draw, target) for _ in range(_count(draw))]
    return recommender_pb2.RecommendRequest(queries=queries).SerializeToString()


def _count(draw: random.Random) -> int:
    chance = draw.random()
    return draw.randint(1, 4) if chance < 0.93 else draw.choice((0, MOST_ITEMS, MOST_ITEMS + 1, 2 * MOST_ITEMS))


def _doubt(request: Any, draw: random.Random) -> None:
    if draw.random() < 0.1:
        request.min_confidence = draw.choice(CONFIDENCES)


def _text(draw: random.Random) -> str:
    if draw.random() < 0.002:
        return "x" * MOST_BYTES
    if draw.random() < 0.5:
        return draw.choice(TEXTS)
    return "".join(
        chr(draw.choice((draw.randint(1, 0xD7FF), draw.randint(32, 126)))) for _ in range(draw.randint(0, 60))
    )


def _query(draw: random.Random, target: Target) -> recommender_pb2.RecommendQuery:
    user = draw.choice((draw.choice(target.user_ids), draw.choice(target.user_ids), "", "nobody", "\U0001f600" * 500))
    known = draw.choices(
        target.item_ids, k=draw.choice((0, 0, 1, 3, 3, 1000, 1001) if draw.random() < 0.1 else (0, 1, 3))
    )
    unknown = draw.choice(([], [], [], ["no such item"], [""]))
    items = known + unknown
    draw.shuffle(items)
    beyond = (-(2**31), -1, 0, len(target.item_ids), len(target.item_ids) + 1, 2**31 - 1)
    k = draw.choice(beyond) if draw.random() < 0.2 else draw.randint(1, 20)
    return recommender_pb2.RecommendQuery(user_id=user, item_ids=items, k=k)


def _image(draw: random.Random) -> classifier_pb2.Image:
    chance = draw.random()
    if chance < 0.03:
        return classifier_pb2.Image()
    if chance < 0.4:
        return classifier_pb2.Image(encoded=_file(draw))
    if chance < 0.6:
        shape = draw.choice(((SIDE, SIDE), (SIDE, SIDE, 1)))
    else:
        lengths = LENGTHS if draw.random() < 0.5 else (1, 2, 3, 4, 27, 28, 29)
        shape = tuple(draw.choice(lengths) for _ in range(draw.choice((0, 1, 2, 2, 3, 3, 3, 4))))
    size = functools.reduce(lambda product, length: product * length, shape, 1)
    fits = 0 <= size <= 30_000 and draw.random() < 0.8
    data = draw.randbytes(size if fits else draw.choice((0, 1, 783, 784, 785, 2352)))
    return classifier_pb2.Image(raw=classifier_pb2.RawImage(data=data, shape=shape))


def _file(draw: random.Random) -> bytes:
    make: Callable[[random.Random], bytes] = draw.choice((_whole, _whole, _whole, _cut, _damaged, _huge, _other))
    return make(draw)


def _whole(draw: random.Random) -> bytes:
    mode, kind = draw.choice(_FORMS[:-3])
    return _picture(mode, kind, draw.choice((1, 5, SIDE, 60)), draw.choice((1, SIDE, 90)))


def _cut(draw: random.Random) -> bytes:
    content = _whole(draw)
    return content[: draw.randint(1, len(content))]


def _damaged(draw: random.Random) -> bytes:
    content = bytearray(_whole(draw))
    for _ in range(draw.randint(1, 3)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def _huge(draw: random.Random) -> bytes:
    """A PNG of 74 bytes that claims to be large."""
    width, height = (draw.choice((3999, 4000, 4001, 2**16, 2**31 - 1)) for _ in range(2))
    if width * height <= 16_000_000:
        width = 2**20
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(100))) + _chunk(b"IEND", b"")


def _other(draw: random.Random) -> bytes:
    if draw.random() < 0.5:
        return draw.choice(
            (b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd8\xff", draw.randbytes(50))
        )
    mode, kind = draw.choice(_FORMS[-3:])
    return _picture(mode, kind, SIDE, SIDE)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_FORMS = (
    ("1", "PNG"),
    ("L", "PNG"),
    ("LA", "PNG"),
    ("P", "PNG"),
    ("RGB", "PNG"),
    ("RGBA", "PNG"),
    ("I;16", "PNG"),
    ("L", "JPEG"),
    ("RGB", "JPEG"),
    ("CMYK", "JPEG"),
    ("L", "GIF"),
    ("L", "BMP"),
    ("RGB", "TIFF"),
)


@functools.cache
def _picture(mode: str, kind: str, width: int, height: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind)
    return file.getvalue()
