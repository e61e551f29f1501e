"""The networks that `--arch` names, each preceded by the normalisation of its pixels.

Shapes: B images, C colours, H height, W width, K classes.
"""

import math

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Pixels to logits: normalises, then runs the body; the statistics are saved with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, colours: int, body_colours: int) -> None:
        """Wraps a body that takes `body_colours` colours; grey images are repeated for one that takes three."""
        super().__init__()
        self.body = body
        self.body_colours = body_colours
        self.register_buffer("mean", torch.zeros(1, colours, 1, 1))
        self.register_buffer("std", torch.ones(1, colours, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Turns pixels, 0 to 255, into logits [B, K]."""
        normal_BCHW = (images_BCHW.to(self.mean.dtype) - self.mean) / self.std
        normal_BCHW = normal_BCHW.expand(-1, self.body_colours, -1, -1)
        return self.body(normal_BCHW)  # [B, K]


def article(shape: tuple[int, int, int], class_count: int) -> nn.Module:
    """Builds the article's net, mended.

    As printed it cannot run: its `unsqueeze(1)` gives an image batch a fifth dimension, and its
    `32*8*8` must be `32*14*14` for 28x28 images.
    """
    colours, height, width = shape
    return nn.Sequential(
        nn.Conv2d(colours, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), 128),
        nn.ReLU(),
        nn.Linear(128, class_count),
    )


def convnet(shape: tuple[int, int, int], class_count: int, dropout: float) -> nn.Module:
    """Builds a small net that strides where others pool, since pooling costs a CPU more than convolving.

    Three convolutions with batch norm bring 28x28 to 4x4 (and images up to 16x16 to a quarter of their
    side); larger maps are averaged down to 4x4. 1.3 million multiplications per grey 28x28 image.
    """
    colours, height, width = shape
    first_stride = 2 if min(height, width) > 16 else 1
    widths = (24, 48, 96)
    map_size = [math.ceil(side / (first_stride * 4)) for side in (height, width)]
    pooled_size = (min(4, map_size[0]), min(4, map_size[1]))
    return nn.Sequential(
        *_block(colours, widths[0], kernel_size=5, stride=first_stride),
        *_block(widths[0], widths[1], kernel_size=3, stride=2),
        *_block(widths[1], widths[2], kernel_size=3, stride=2),
        nn.AdaptiveAvgPool2d(pooled_size) if max(map_size) > 4 else nn.Identity(),
        nn.Dropout2d(dropout),  # of whole maps: a sixteenth of the draws that single activations need
        nn.Flatten(),
        nn.Linear(widths[2] * pooled_size[0] * pooled_size[1], class_count),
    )


def _block(inward: int, outward: int, kernel_size: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inward, outward, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outward), nn.ReLU()


def build(arch: str, shape: tuple[int, int, int], class_count: int, dropout: float) -> Classifier:
    """Builds the untrained network that `arch` names; raises ValueError when there is none of that name."""
    colours = shape[0]
    if arch == "article":
        return Classifier(article(shape, class_count), colours, colours)
    if arch == "convnet":
        return Classifier(convnet(shape, class_count, dropout), colours, colours)
    from pipelines.classifier import backbones

    return Classifier(backbones.build(arch, class_count), colours, 3)
