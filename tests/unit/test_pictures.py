"""Pictures as cameras and attackers make them: turned as their EXIF says, and never a trouble to their neighbours."""

import io
import random
import struct
import zlib

import endpoints
import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks.fuzzing import pictures
from pipelines.classifier import images
from pipelines.classifier.model import Prediction

ORIENTATION, MAKE = 0x0112, 0x010F
SHORT, RATIONAL, DOUBLE = 3, 5, 12
UPRIGHT = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6) * 10
TURNED = [
    UPRIGHT,
    UPRIGHT[:, ::-1],
    UPRIGHT[::-1, ::-1],
    UPRIGHT[::-1],
    UPRIGHT.T,
    np.rot90(UPRIGHT, -1),
    UPRIGHT[::-1, ::-1].T,
    np.rot90(UPRIGHT),
]
"""What a picture is once it is put upright, by orientation, 1 to 8."""


def exif(*entries: tuple[int, int, int]) -> bytes:
    """TIFF with a value of each tag and type, or where it is."""
    packed = b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"MM" + struct.pack(">HIH", 42, 8, len(entries)) + packed + bytes(4) + b"\x00\x00\x00\x01" * 16


def turned(orientation: int) -> tuple[int, int, int]:
    return ORIENTATION, SHORT, orientation << 16


def made(kind: str, data: bytes, dpi: tuple[int, int] = (0, 0)) -> bytes:
    """A file with EXIF of any bytes, which Pillow itself would not write."""
    file = io.BytesIO()
    Image.fromarray(UPRIGHT).save(file, kind, dpi=dpi)
    content = file.getvalue()
    if kind == "JPEG":
        segment = b"Exif\x00\x00" + data
        return content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    return content[:33] + chunk + content[33:]


@pytest.mark.parametrize("make", [(), ((MAKE, RATIONAL, 40),), ((MAKE, DOUBLE, 40),)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_put_upright_whatever_else_its_exif_holds(
    orientation: int, kind: str, make: tuple[tuple[int, int, int], ...]
) -> None:
    content = made(kind, exif(turned(orientation), *make))
    upright, wanted = np.asarray(images.open_picture(content)), TURNED[orientation - 1]
    assert upright.shape == wanted.shape == images.outline(content)[1:]
    assert np.abs(upright.astype(int) - wanted).max() <= (0 if kind == "PNG" else 30)


@pytest.mark.parametrize("dpi", [(0, 0), (72, 72)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    "data", [b"", b"MM", bytes(40), exif(turned(9)), exif((ORIENTATION, DOUBLE, 2**31)), exif(turned(6))[:12]]
)
@pytest.mark.filterwarnings("ignore")
def test_exif_that_says_nothing_turns_nothing(data: bytes, kind: str, dpi: tuple[int, int]) -> None:
    content = made(kind, data, dpi)
    assert images.open_picture(content).size == (6, 4) == images.outline(content)[:0:-1]


def test_a_crafted_picture_leaves_its_neighbours_alone() -> None:
    model = endpoints.classifier()
    good = model.examples()[0]
    crafted = made("JPEG", exif(turned(6), (MAKE, RATIONAL, 40)))
    assert [type(one) for one in model.predict([good, crafted, good])] == [Prediction] * 3


@pytest.mark.parametrize("kind", [AttributeError, KeyError, MemoryError])
def test_whatever_pillow_raises_is_a_bad_picture(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("planted")

    model = endpoints.classifier()
    picture, pixels = model.examples()
    monkeypatch.setattr(Image, "open", fail)
    answered, refused = model.predict([pixels, picture])
    assert isinstance(answered, Prediction) and "are not a readable PNG or JPEG" in str(refused)


@pytest.mark.filterwarnings("ignore")
def test_the_fuzzer_draws_exif_that_pillow_cannot_write_again() -> None:
    draw, met = random.Random(0), set()
    for content in (pictures.file(draw) for _ in range(2000)):
        try:
            images.open_picture(content)
            ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        except ValueError:
            continue
        except Exception as problem:
            met.add(type(problem))
    assert {AttributeError, TypeError} & met
