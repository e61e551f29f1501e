"""Makes files of pictures, good and bad."""

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable

from benchmarks.target import SIDE


def file(draw: random.Random) -> bytes:
    """Makes a picture's file: whole, with EXIF of any kind or none, cut short, damaged, huge, or of another kind."""
    make: Callable[[random.Random], bytes] = draw.choice((_whole, _whole, _whole, _cut, _damaged, _huge, _other))
    return make(draw)


def _whole(draw: random.Random) -> bytes:
    mode, kind = draw.choice(_FORMS[:-3])
    size = draw.choice((1, 5, SIDE, 60)), draw.choice((1, SIDE, 90))
    content = _picture(mode, kind, size, draw.random() < 0.5)
    return _with_exif(content, _exif(draw)) if draw.random() < 0.4 else content


def _with_exif(content: bytes, exif: bytes) -> bytes:
    if content.startswith(b"\xff\xd8"):
        segment = b"Exif\x00\x00" + exif
        return content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]
    return content[:_PNG_HEADER] + _chunk(b"eXIf", exif) + content[_PNG_HEADER:]


def _exif(draw: random.Random) -> bytes:
    """Makes EXIF as TIFF has it: often turned, with tags of types that they should not have, now and then cut short."""
    order = draw.choice("<>")
    entries = [_entry(draw, order) for _ in range(draw.randint(0, 4))]
    if draw.random() < 0.8:
        entries.insert(0, struct.pack(f"{order}HHIHH", _ORIENTATION, 3, 1, draw.randint(0, 9), 0))
    content = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries)) + b"".join(entries)
    content += struct.pack(f"{order}I", draw.choice((0, 0, 8, 2**32 - 1))) + draw.randbytes(64)
    chance = draw.random()
    if chance < 0.1:
        return content[: draw.randint(0, len(content))]
    return draw.randbytes(8) + content[8:] if chance < 0.15 else content


def _entry(draw: random.Random, order: str) -> bytes:
    """Makes an entry of EXIF: tag, type, how many values, and where these are or what they are."""
    tag = draw.choice(_TAGS) if draw.random() < 0.9 else draw.randrange(2**16)
    value = draw.choice((draw.randrange(100), draw.randrange(100), 2**32 - 1, draw.randrange(2**32)))
    return struct.pack(
        f"{order}HHII", tag, draw.randint(0, 13), draw.choice((0, 1, 1, 1, 2, 5, 1000, 2**32 - 1)), value
    )


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
    return _picture(mode, kind, (SIDE, SIDE), False)


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
_PNG_HEADER = 33
"""Bytes of a PNG file up to the end of its first chunk."""
_ORIENTATION = 0x0112
_TAGS = (_ORIENTATION, 0x010F, 0x0110, 0x011A, 0x0128, 0x0131, 0x0132, 0x8769, 0x8825, 0x927C)
"""Tags of EXIF: orientation, make, model, resolution and its unit, software, time, and where more tags are."""


@functools.cache
def _picture(mode: str, kind: str, size: tuple[int, int], is_dense: bool) -> bytes:
    """Makes a file; Pillow looks into a JPEG file's EXIF earlier where the file does not say how dense its dots are."""
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, dpi=(72, 72) if is_dense else (0, 0))
    return file.getvalue()
