"""Labelled images from a folder of one's own.

Shapes: N images, C colours, H height, W width.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import stream
from pipelines.classifier import images
from pipelines.classifier.sources import Labelled

SUFFIXES = (".png", ".jpg", ".jpeg")
LEAST_SIDE = 8
"""Least height and width, in pixels; --image-size has the same bound."""


@dataclass(frozen=True)
class Listing(Sequence[str]):
    """The addresses of the image files in a folder, class by class, each class in the order of the names."""

    root: str
    names: list[str]
    """From the folder on, such as cat/1.png."""
    labels: list[str]
    targets: np.ndarray
    """int64 [N]"""
    facts: np.ndarray
    """Each file's size in bytes and the time of its last change in ns; int64 [N, 2]."""

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.names)

    def __getitem__(self, at: Any) -> Any:
        """Gives a file's address."""
        return f"{self.root}/{self.names[at]}"

    def digest(self) -> str:
        """Hashes names, sizes and times, so that a change of a file is seen without reading any; SHA-256."""
        sha = hashlib.sha256(self.facts.tobytes())
        for name in self.names:
            sha.update(os.fsencode(name) + b"\0")
        return sha.hexdigest()


def find(data: str) -> Listing:
    """Lists one subfolder of PNG or JPEG files per class, each class named as its subfolder, here or at s3:// or gs://.

    Hidden files are passed over. Raises ValueError, naming the file or folder, for anything but images.
    """
    root = data.rstrip("/") if "://" in data else str(Path(data))
    inside = stream.folders(root)
    if inside is None:
        raise ValueError(f"--data {root!r} is not a folder; name one with a subfolder of images per class")
    labels = [name for name in inside if not name.startswith((".", "__"))]
    classes = [_files(f"{root}/{label}") for label in labels]
    if len(labels) < 2:
        raise ValueError(
            f"--data {root!r} has {len(labels)} class folders ({', '.join(labels) or 'none'});"
            " at least 2 are needed, one subfolder of images per class"
        )
    names = [f"{label}/{name}" for label, files in zip(labels, classes, strict=True) for name, _, _ in files]
    facts = np.array([file[1:] for files in classes for file in files], np.int64)
    return Listing(root, names, labels, np.repeat(np.arange(len(labels)), [len(files) for files in classes]), facts)


def read(data: str, image_size: int) -> Labelled:
    """Reads the images that `find` lists.

    `image_size` is the side all images are resized to; 0 keeps the size they share. Raises ValueError, naming the file
    or folder, for anything that cannot be learned from.
    """
    if "://" in data:
        raise ValueError(f"--data {data!r} is not on this machine; --stream reads images from there")
    found = find(data)
    pictures = Pictures(found.root, image_size)
    images_CHW = [pictures.decode(name) for name in found.names]
    sizes_N2 = np.array([image_CHW.shape[1:] for image_CHW in images_CHW])
    check_sizes(sizes_N2, found)
    images_NCHW = np.empty((len(found), max(map(len, images_CHW)), *sizes_N2[0]), np.uint8)
    for at, image_CHW in enumerate(images_CHW):
        images_NCHW[at] = image_CHW  # grey ones are repeated for each colour
    return Labelled(images_NCHW, found.targets, found.labels)


class Pictures:
    """Reads the image files of a folder, by their names from there."""

    def __init__(self, root: str, image_size: int) -> None:
        """Takes the side that images are resized to; 0 keeps their size."""
        self._root, self._side, self._read = root, image_size, stream.reader(root)

    def decode(self, name: str) -> np.ndarray:
        """Gives an image's pixels; uint8 [C, H, W]. Raises ValueError, naming the file, when it cannot be used."""
        try:
            picture = images.open_picture(self._read(name))
        except (OSError, ValueError) as error:
            raise self._refusal(name, error) from None
        colours, side = len(picture.getbands()), self._side
        return images.pixels(picture, (colours, side or picture.height, side or picture.width))

    def outline(self, name: str) -> tuple[int, int, int]:
        """Tells the shape of what `decode` gives, without decoding it. Raises ValueError, naming the file."""
        try:
            return images.outline(self._read(name), self._side)
        except (OSError, ValueError) as error:
            raise self._refusal(name, error) from None

    def _refusal(self, name: str, error: Exception) -> ValueError:
        return ValueError(f"{f'{self._root}/{name}'!r} cannot be used: {error}")


def check_sizes(sizes_N2: np.ndarray, paths: Sequence[str]) -> None:
    """Raises ValueError, naming a file, when heights and widths are not one, or too small."""
    height, width = sizes_N2[0]
    other = np.flatnonzero((sizes_N2 != sizes_N2[0]).any(1))
    if len(other):
        raise ValueError(
            f"{paths[other[0]]!r} is {sizes_N2[other[0]][0]} x {sizes_N2[other[0]][1]} pixels (height x width) but"
            f" {paths[0]!r} is {height} x {width}; pass --image-size to bring all to one size"
        )
    if min(height, width) < LEAST_SIDE:
        raise ValueError(
            f"{paths[0]!r} is {height} x {width} pixels; at least {LEAST_SIDE} x {LEAST_SIDE} are needed,"
            f" so pass --image-size {LEAST_SIDE} or more"
        )


def _files(place: str) -> list[stream.File]:
    found = [file for file in stream.below(place) if not file[0].rpartition("/")[2].startswith(".")]
    found.sort(key=lambda file: file[0].split("/"))
    other = [name for name, _, _ in found if not name.lower().endswith(SUFFIXES)]
    if other:
        raise ValueError(f"{f'{place}/{other[0]}'!r} is not one of {', '.join(SUFFIXES)}; convert or remove it")
    if len(found) < 3:
        raise ValueError(
            f"class folder {place!r} holds {len(found)} images; at least 3 are needed,"
            " for training, validation and test"
        )
    return found
