"""The networks that `--arch` names, each preceded by the normalisation of its pixels.

Shapes: B images, C colours, H height, W width, K classes.
"""

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
    `32*8*8` must be `32*14*14` for 28x28 images. Raises ValueError below 2x2 pixels.
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
    """Builds a small net of three convolutions with batch norm."""
    colours, height, _ = shape
    stride = 2 if height > 16 else 1
    return nn.Sequential(
        nn.Conv2d(colours, 32, kernel_size=5, padding=2, stride=stride, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 128, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(128 * 4, class_count),
    )


def build(arch: str, shape: tuple[int, int, int], class_count: int, dropout: float) -> Classifier:
    """Builds the untrained network that `arch` names; raises ValueError when there is none of that name."""
    colours = shape[0]
    if arch == "article":
        return Classifier(article(shape, class_count), colours, colours)
    if arch == "convnet":
        return Classifier(convnet(shape, class_count, dropout), colours, colours)
    from pipelines.classifier import backbones

    return Classifier(backbones.build(arch, class_count), colours, 3)
