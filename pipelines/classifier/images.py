"""Pictures between files and pixels; training from a folder and serving decode them alike.

Shapes: C colours, H height, W width.
"""

import functools
import io
import struct
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 16_000_000
"""The largest picture that is decoded, width times height."""
_MOST_SEGMENTS = 64
"""Segments of a JPEG file that are looked through for its size; cameras write fewer than 30 before it."""
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)
"""The EXIF tag that says how a picture is turned, and its values that swap height and width."""
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What puts a picture of each of its values upright, as Pillow names it."""
T = TypeVar("T")
_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""The markers of JPEG segments that give the picture's size."""


class TooManyPixelsError(ValueError):
    """A picture that is too large to decode."""


def pixel_count(content: bytes) -> int:
    """Reads width times height from the first bytes of a PNG or JPEG file, in microseconds and without decoding it.

    0 for any other file; MAX_PIXELS for a JPEG file that does not give its size early.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        if len(content) < 24 or content[12:16] != b"IHDR":
            return 0
        width, height = struct.unpack_from(">II", content, 16)
        return width * height
    if not content.startswith(b"\xff\xd8"):
        return 0
    start = 2
    for _ in range(_MOST_SEGMENTS):
        if start + 9 > len(content) or content[start] != 0xFF:
            break
        if content[start + 1] in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", content, start + 5)
            return width * height
        start += 2 + int.from_bytes(content[start + 2 : start + 4], "big")
    return MAX_PIXELS


def open_picture(content: bytes) -> "Image.Image":
    """Decodes a PNG or JPEG file, upright, into mode L (grey) or RGB.

    Transparent parts become white; 16-bit grey becomes 8-bit; EXIF that cannot be read turns nothing. Raises
    ValueError when the bytes are not such a file or are cut short, and TooManyPixelsError, before decoding, when they
    hold more than MAX_PIXELS.
    """
    return _opened(content, lambda picture: _plain(_upright(picture)))


def outline(content: bytes, side: int = 0) -> tuple[int, int, int]:
    """Tells the shape (C, H, W) of what `open_picture` makes of a file, from its first bytes where these say it.

    With a `side`, height and width are that. Raises what `open_picture` raises, though not for a file that is broken
    after its first bytes.
    """

    def look(picture: "Image.Image") -> tuple[int, int, int]:
        width, height = picture.size
        if not side and width != height and _orientation(picture) in _LYING:
            width, height = height, width
        return 1 if _is_grey(picture) else 3, side or height, side or width

    return _opened(content, look)


def _opened(content: bytes, use: "Callable[[Image.Image], T]") -> T:
    """Gives what `use` makes of a picture, whose pixels are not decoded yet."""
    from PIL import Image

    _silence()
    claimed = pixel_count(content)
    if claimed > MAX_PIXELS:
        raise TooManyPixelsError(
            f"the image has {claimed:,} pixels; at most {MAX_PIXELS:,} are allowed, so scale it down"
        )
    try:
        picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        width, height = picture.size
        if width * height <= claimed:  # a second header may say otherwise
            return use(picture)
    except Exception:  # Pillow raises errors of any kind for crafted bytes, and others' pictures share the batch
        pass
    raise ValueError(
        f"{len(content)} bytes are not a readable PNG or JPEG image; send a whole file in one of these formats"
    )


@functools.cache
def _silence() -> None:
    """Has Pillow's warnings ignored: they repeat a file's numbers, and Python keeps each text for good."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _upright(picture: "Image.Image") -> "Image.Image":
    """Turns a picture as its EXIF says; Pillow's own exif_transpose writes all of the EXIF anew, which may fail."""
    from PIL import Image

    picture.load()  # EXIF may follow the pixels
    turn = _TURNS.get(_orientation(picture))
    return picture.transpose(Image.Transpose[turn]) if turn else picture


def _orientation(picture: "Image.Image") -> int:
    """Reads how a picture is turned, 1 to 8; 1, upright, where EXIF says nothing that can be understood."""
    try:
        found = picture.getexif().get(_ORIENTATION)
        return found if found in _TURNS else 1
    except Exception:  # Pillow raises errors of any kind, which say nothing of the pixels
        return 1


def _is_grey(picture: "Image.Image") -> bool:
    return picture.mode in ("1", "L", "LA") or picture.mode.startswith("I")


def _plain(picture: "Image.Image") -> "Image.Image":
    from PIL import Image

    mode = "L" if _is_grey(picture) else "RGB"
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert(mode)
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert(mode)


def pixels(picture: "Image.Image", shape: tuple[int, int, int]) -> np.ndarray:
    """Brings a decoded picture to (C, H, W), whatever its proportions were; uint8 [C, H, W], C 1 or 3."""
    from PIL import Image

    colours, height, width = shape
    picture = picture.convert("L" if colours == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(height, width, colours).transpose(2, 0, 1)


def from_pixels(image_CHW: np.ndarray) -> "Image.Image":
    """Makes a picture of uint8 pixels, C 1 or 3."""
    from PIL import Image

    image_HWC = np.ascontiguousarray(image_CHW.transpose(1, 2, 0))
    return Image.fromarray(image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC)


def to_png(image_CHW: np.ndarray) -> bytes:
    """Encodes uint8 pixels as a PNG file."""
    file = io.BytesIO()
    from_pixels(image_CHW).save(file, "PNG")
    return file.getvalue()
