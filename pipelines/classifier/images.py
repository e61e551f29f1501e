"""Pictures between files and pixels; training from a folder and serving decode them alike.

Shapes: C colours, H height, W width.
"""

import io
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 16_000_000
"""The largest picture that is decoded, width times height."""


def open_picture(content: bytes) -> "Image.Image":
    """Decodes a PNG or JPEG file, upright, into mode L (grey) or RGB.

    Transparent parts become white; 16-bit grey becomes 8-bit. Raises ValueError when the bytes are not
    such a file, are cut short, or hold more than MAX_PIXELS.
    """
    from PIL import Image, ImageOps

    try:
        picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        width, height = picture.size
        if width * height <= MAX_PIXELS:
            return _plain(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"the image has over {MAX_PIXELS:,} pixels, the most allowed; scale it down") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):
        raise ValueError(
            f"{len(content)} bytes are not a readable PNG or JPEG image; send a whole file in one of these formats"
        ) from None
    raise ValueError(f"the image has {width} x {height} pixels; at most {MAX_PIXELS:,} are allowed, so scale it down")


def _plain(picture: "Image.Image") -> "Image.Image":
    from PIL import Image

    mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
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
