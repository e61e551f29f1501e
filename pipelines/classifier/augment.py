"""Small random rotations, changes of size, shifts and mirrorings, as tensor operations on a whole batch.

Shapes: B images, C colours, H height, W width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.examples import Draw

ROTATION_MOST = math.radians(12)
"""Largest rotation, either way."""
SCALE_MOST = 0.1
"""Largest change of size, either way, as a share."""
SHIFT_MOST = 2 / 28
"""Largest shift, either way, as a share of height and width; what leaves the image is cropped."""


def augment(images_BCHW: Tensor, index_B: Tensor, draw: Draw, mirrored: bool) -> Tensor:
    """Moves every image about, each by draws that depend on (seed, epoch, index) alone.

    Takes pixels 0 to 255 and returns them as float32, black where nothing was. Half of the images,
    again by draw, are mirrored where `mirrored` says that left and right are alike.
    """
    angle_B, scale_B, down_B, right_B, side_B = (draw.uniform(index_B, 5) * 2 - 1).unbind(1)  # -1 to 1
    cos_B = torch.cos(angle_B * ROTATION_MOST) * (1 + scale_B * SCALE_MOST)
    sin_B = torch.sin(angle_B * ROTATION_MOST) * (1 + scale_B * SCALE_MOST)
    # grid_sample measures from -1 to 1, so that a shift of the whole width is 2
    top_B3 = torch.stack([cos_B, -sin_B, right_B * 2 * SHIFT_MOST], 1)
    bottom_B3 = torch.stack([sin_B, cos_B, down_B * 2 * SHIFT_MOST], 1)
    affine_B23 = torch.stack([top_B3, bottom_B3], 1)
    if mirrored:
        affine_B23[:, :, 0] *= torch.where(side_B < 0, -1.0, 1.0)[:, None]
    grid_BHW2 = F.affine_grid(affine_B23, list(images_BCHW.shape), align_corners=False)
    return F.grid_sample(images_BCHW.float(), grid_BHW2, align_corners=False)
