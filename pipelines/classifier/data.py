"""Images of a built-in set or a folder, split by the seed and batched by indexing.

Shapes: B images of a batch, N images, C colours, H height, W width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines import examples, reference
from pipelines.classifier import folders, images, sources
from pipelines.classifier.augment import augment
from pipelines.classifier.config import Config

log = logging.getLogger(__name__)

VALID_SHARE = 0.1
VALID_MOST = 2_500
"""Of a set with its own test split, a tenth of the training images validate, at most this many."""
READ_BY = ("image_size",)
"""Flags that change the pixels, so that the fingerprints of one image differ where they do."""
MIRRORED = ("fashion-mnist", "cifar10")
"""Built-in sets whose images mean the same when left and right are swapped."""


class Batch(NamedTuple):
    """What the network sees and what it should say."""

    images: Tensor
    """Pixels 0 to 255 [B, C, H, W]: uint8, or float32 where augmented."""
    targets: Tensor
    """Classes [B], int64."""
    smoothing: float
    """Label smoothing of the training loss."""


@dataclass
class Images:
    """One split, whole in memory as uint8."""

    images: Tensor
    """[N, C, H, W]"""
    targets: Tensor
    """[N], int64"""
    smoothing: float
    augmented: bool
    mirrored: bool
    lengths: Tensor | None = None

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.targets)

    def to(self, device: torch.device) -> "Images":
        """Moves the tensors to a device, once."""
        moved = (self.images.to(device), self.targets.to(device))
        return Images(*moved, self.smoothing, self.augmented, self.mirrored)

    def batch(self, index_B: Tensor, draw: examples.Draw | None) -> Batch:
        """Takes the images at `index_B`, moved about by `draw` when training with --augment."""
        images_BCHW, targets_B = self.take(index_B)
        if draw and self.augmented:
            images_BCHW = augment(images_BCHW, index_B, draw, self.mirrored)
        return Batch(images_BCHW, targets_B, self.smoothing)

    def take(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Takes images and classes as they are, on the split's device."""
        return self.images[index_B], self.targets[index_B]


@dataclass
class ImageData(examples.Data):
    """The three splits, and what a new model must know of them."""

    labels: list[str]
    """Names of the classes, in the order of the targets."""
    shape: tuple[int, int, int]
    """C, H and W of every image."""
    mean: list[float]
    """Mean of the training split's pixels, 0 to 255, per colour."""
    std: list[float]
    """Their standard deviation; 1 where a colour never varies."""
    prints: tuple[Tensor, Tensor]
    """Fingerprints of the images that are learned from, and of the test split's."""


def load(config: Config) -> ImageData:
    """Reads the images that `config` names; raises ValueError, naming the file, when they cannot be used."""
    if config.stream:
        from pipelines.classifier import streaming

        return checked(streaming.load(config))
    if config.data:
        found = folders.read(config.data, config.image_size)
    else:
        found = sources.built_in(config.dataset, config.data_dir)
        found = _resized(found, config.image_size)
    parts = split(found.targets, len(found.labels), config.seed, found.train_count)
    mirrored = config.mirror or (not config.data and config.dataset in MIRRORED)
    splits = [_images(found, part, config, mirrored) for part in parts]
    learned = splits[0].images.numpy()
    mean, std = moments(np.sum([histogram(learned[at : at + 512]) for at in range(0, len(learned), 512)], 0))
    train, valid, test = (examples.fingerprints(found.images[at].tobytes() for at in part) for part in parts)
    about = {"name": config.data or config.dataset, "labels": found.labels, "shape": found.images.shape[1:]}
    prints = torch.cat([train, valid]), test
    return checked(ImageData(*splits, digest=_digest(found), **about, mean=mean, std=std, prints=prints))


def checked(data: ImageData) -> ImageData:
    """Gives data back, and warns where images that are tested on are learned from too, as copies of one picture are."""
    learned, tested = data.prints
    count = int(torch.isin(tested, learned).sum())
    if count:
        log.warning(
            "%s: %d of the %d images that test the model are copies of images that it learns from, so that its test "
            "metrics flatter it; leave the copies out",
            data.name,
            count,
            len(tested),
        )
    return data


def rows(found: list[Any], config: Config, data: ImageData) -> Images:
    """Makes examples of image files' paths or {image, label} rows, for a look at them; without one, the first label.

    Raises ValueError for a row that is neither, a file that is no image, or a label that is none of the data's.
    """
    pixels, targets = [], []
    for number, row in enumerate(found, 1):
        path, label = (row.get("image"), str(row.get("label", data.labels[0]))) if isinstance(row, dict) else (row, "")
        if not isinstance(path, str):
            raise ValueError(f"row {number} is neither an image's path nor a row with an 'image'")
        if label and label not in data.labels:
            raise ValueError(f"row {number} has the label {label!r}; there are {', '.join(data.labels)}")
        try:
            pixels.append(images.pixels(images.open_picture(Path(path).read_bytes()), data.shape))
        except (OSError, ValueError) as problem:
            raise ValueError(f"row {number}, {path}: {problem}") from problem
        targets.append(data.labels.index(label or data.labels[0]))
    seen = torch.from_numpy(np.stack(pixels)), torch.tensor(targets)
    return Images(*seen, config.label_smoothing, config.augment, mirrored=False)


def inputs(data: ImageData) -> Sequence[np.ndarray]:
    """Gives images of the validation split as a caller would send their pixels."""
    return _sent(data.valid, reference.spread(len(data.valid)))


def test_inputs(data: ImageData, places: list[int]) -> Sequence[np.ndarray]:
    """Gives some images of the test split as a caller would send their pixels."""
    return _sent(data.test, places)


def fingerprints(data: ImageData) -> tuple[Tensor, Tensor]:
    """Gives the fingerprints of the images that are learned from, validation among them, and of the test split's."""
    return data.prints


def _sent(split: examples.Split, places: list[int]) -> Sequence[np.ndarray]:
    """Gives images at some places of a split as [H, W, C], each taken when it is asked for."""

    def take(at: int) -> np.ndarray:
        images_BCHW = split.batch(torch.tensor([places[at]]), None).images
        return images_BCHW[0].cpu().numpy().transpose(1, 2, 0)

    return examples.OnDemand(len(places), take)


def _resized(found: sources.Labelled, side: int) -> sources.Labelled:
    colours, height = found.images.shape[1:3]
    if side in (0, height):
        return found
    shape = (colours, side, side)
    resized = [images.pixels(images.from_pixels(image_CHW), shape) for image_CHW in found.images]
    return sources.Labelled(np.stack(resized), found.targets, found.labels, found.train_count)


def split(targets_N: np.ndarray, class_count: int, seed: int, train_count: int | None = None) -> list[np.ndarray]:
    """Shares out the images of each class by the seed: 8 of 10 train, 1 validates, 1 tests.

    A set's own test split, all after `train_count`, stays what it is. Gives the places of each split, ascending.
    """
    count = len(targets_N) if train_count is None else train_count
    order_N = np.random.default_rng(seed).permutation(count)
    if train_count is not None:
        valid_count = min(int(count * VALID_SHARE), VALID_MOST)
        test = np.arange(count, len(targets_N))
        return [np.sort(order_N[valid_count:]), np.sort(order_N[:valid_count]), test]
    rank_N = np.empty(count, np.int64)
    for target in range(class_count):
        members = order_N[targets_N[order_N] == target]
        rank_N[members] = np.arange(len(members)) % 10
    return [
        np.flatnonzero((rank_N != 1) & (rank_N != 2)),
        np.flatnonzero(rank_N == 2),
        np.flatnonzero(rank_N == 1),
    ]


def _images(found: sources.Labelled, part: np.ndarray, config: Config, mirrored: bool) -> Images:
    return Images(
        torch.from_numpy(found.images[part]),
        torch.from_numpy(found.targets[part]),
        config.label_smoothing,
        config.augment,
        mirrored,
    )


def histogram(images_NCHW: np.ndarray) -> np.ndarray:
    """Counts, per colour, how often each of the 256 values occurs; int64 [C, 256]."""
    colours_CNHW = images_NCHW.transpose(1, 0, 2, 3)
    return np.stack([np.bincount(colour.ravel(), minlength=256) for colour in colours_CNHW])


def moments(counts_CV: np.ndarray) -> tuple[list[float], list[float]]:
    """Finds mean and deviation per colour from counts of the 256 values, so that no float copy is made."""
    means, stds = [], []
    values = np.arange(256)
    for counts in counts_CV:
        share = counts / np.sum(counts)
        means.append(float(share @ values))
        stds.append(float(share @ (values - means[-1]) ** 2) ** 0.5 or 1.0)
    return means, stds


def _digest(found: sources.Labelled) -> str:
    shape = repr(found.images.shape).encode()
    return examples.digest(shape, found.images.tobytes(), found.targets.tobytes(), "\n".join(found.labels).encode())
