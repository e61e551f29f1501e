"""Labelled images from a folder of one's own.

Shapes: N images, C colours, H height, W width.
"""

from pathlib import Path

import numpy as np

from pipelines.classifier import images
from pipelines.classifier.sources import Labelled

SUFFIXES = (".png", ".jpg", ".jpeg")
LEAST_SIDE = 8
"""Least height and width, in pixels; --image-size has the same bound."""


def read(root: Path, image_size: int) -> Labelled:
    """Reads one subfolder of PNG or JPEG files per class, each class named as its subfolder.

    `image_size` is the side all images are resized to; 0 keeps the size they share. Hidden files are
    passed over. Raises ValueError, naming the file or folder, for anything that cannot be learned from.
    """
    if not root.is_dir():
        raise ValueError(f"--data {str(root)!r} is not a folder; name one with a subfolder of images per class")
    classes = {place.name: _files(place) for place in sorted(root.iterdir()) if _is_class(place)}
    if len(classes) < 2:
        raise ValueError(
            f"--data {str(root)!r} has {len(classes)} class folders ({', '.join(classes) or 'none'});"
            " at least 2 are needed, one subfolder of images per class"
        )
    files = [(path, target) for target, paths in enumerate(classes.values()) for path in paths]
    images_NCHW = _stack([_read(path, image_size) for path, _ in files], [path for path, _ in files])
    return Labelled(images_NCHW, np.array([target for _, target in files], np.int64), list(classes))


def _read(path: Path, image_size: int) -> np.ndarray:
    try:
        picture = images.open_picture(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be used: {error}") from None
    colours, side = len(picture.getbands()), image_size
    return images.pixels(picture, (colours, side or picture.height, side or picture.width))


def _stack(images_CHW: list[np.ndarray], paths: list[Path]) -> np.ndarray:
    size = images_CHW[0].shape[1:]
    for image_CHW, path in zip(images_CHW, paths, strict=True):
        if image_CHW.shape[1:] != size:
            raise ValueError(
                f"{str(path)!r} is {image_CHW.shape[1]} x {image_CHW.shape[2]} pixels (height x width) but"
                f" {str(paths[0])!r} is {size[0]} x {size[1]}; pass --image-size to bring all to one size"
            )
    if min(size) < LEAST_SIDE:
        raise ValueError(
            f"{str(paths[0])!r} is {size[0]} x {size[1]} pixels; at least {LEAST_SIDE} x {LEAST_SIDE} are needed,"
            f" so pass --image-size {LEAST_SIDE} or more"
        )
    colours = max(len(image_CHW) for image_CHW in images_CHW)
    return np.stack([np.broadcast_to(image_CHW, (colours, *size)) for image_CHW in images_CHW])


def _is_class(place: Path) -> bool:
    return place.is_dir() and not place.name.startswith((".", "__"))


def _files(place: Path) -> list[Path]:
    paths = sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
    other = [path for path in paths if path.suffix.lower() not in SUFFIXES]
    if other:
        raise ValueError(f"{str(other[0])!r} is not one of {', '.join(SUFFIXES)}; convert or remove it")
    if len(paths) < 3:
        raise ValueError(
            f"class folder {str(place)!r} holds {len(paths)} images; at least 3 are needed,"
            " for training, validation and test"
        )
    return paths
