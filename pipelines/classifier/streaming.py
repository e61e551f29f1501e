"""Images that outgrow memory: read twice as a stream, decoded once onto the disk, and indexed from there.

The first pass looks at what the files say of their size and colours; the second decodes them. The split follows from
the list of files alone, so that everything, the digest included, is what it is with the same folder in memory.

Shapes: B images of a batch, N images, C colours, H height, W width, V the 256 values of a pixel.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines import examples, loading, shards, stream
from pipelines.classifier import data, folders
from pipelines.classifier.config import Config
from pipelines.classifier.folders import Listing
from pipelines.examples import SPLITS
from pipelines.shards import Shards, Writer
from pipelines.stream import Part

GROUP_FILES, GROUP_BYTES = 1024, 64 << 20
"""Most files that a task of the cluster reads, and most bytes of files unless one alone has more."""
PART_BYTES = 4 << 20
"""Most bytes of pixels that are handed on together, unless one image alone has more."""
EXTRA_BYTES = 16
"""What the disk holds of an image besides its pixels: class and fingerprint."""
VERSION = 1
"""Of what the columns mean; another one makes them anew."""
TRAIN = "0"
"""A file of the training split, in an item of work."""
CPU = torch.device("cpu")
Shape = tuple[int, int, int]


@dataclass
class Streamed(data.Images):
    """A split whose pixels stay on disk, whatever the device."""

    device: torch.device = CPU

    def to(self, device: torch.device) -> "Streamed":
        """Moves batches, once they are read, to a device."""
        return Streamed(self.images, self.targets, self.smoothing, self.augmented, self.mirrored, device=device)

    def take(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Reads images and classes."""
        images_BCHW, targets_B = super().take(index_B.cpu())
        return images_BCHW.to(self.device), targets_B.to(self.device)


def load(config: Config) -> data.ImageData:
    """Opens the pixels of the folder that `--data` names, decoded now if they never were on this machine.

    Raises ValueError, naming the file or folder, for anything that cannot be learned from, and for a disk that lacks
    the room.
    """
    found = folders.find(config.data)
    size, seed = config.image_size, config.seed
    key = json.dumps(["images", VERSION, found.root, found.digest(), size, seed])
    made = shards.cached(key, partial(_fill, found=found, image_size=size, seed=seed))
    shape = tuple(made.facts["shape"])
    prints = [made.column(f"{name}.prints", torch.int64) for name in SPLITS]
    return data.ImageData(
        *(_split(made, name, shape, config) for name in SPLITS),
        digest=made.facts["digest"],
        name=config.data,
        labels=found.labels,
        shape=shape,
        mean=made.facts["mean"],
        std=made.facts["std"],
        prints=(torch.cat(prints[:2]), prints[2]),
    )


def _split(made: Shards, name: str, shape: Shape, config: Config) -> Streamed:
    images_NCHW = made.column(f"{name}.images", torch.uint8).view(-1, *shape)
    targets_N = made.column(f"{name}.targets", torch.int64)
    return Streamed(images_NCHW, targets_N, config.label_smoothing, config.augment, config.mirror)


def _fill(folder: Path, found: Listing, image_size: int, seed: int) -> None:
    """Makes the columns of all splits, in the order of the files."""
    split_N = np.empty(len(found), np.uint8)
    for number, places in enumerate(data.split(found.targets, len(found.labels), seed)):
        split_N[places] = number
    items = list(_items(found, split_N))
    shape = _shape(found, items, image_size)
    what = f"the {len(found):,} images of {found.root!r}, at {shape[1]} x {shape[2]} pixels,"
    needed = len(found) * (math.prod(shape) + EXTRA_BYTES)
    shards.check_room(folder, needed, what, "or take a smaller --image-size")
    work = partial(decoded, root=found.root, shape=shape, image_size=image_size)
    with Writer(folder) as writer:
        facts = _write(writer, stream.through(items, work), found, split_N, shape)
        writer.close({"shape": shape, **facts})


def _items(found: Listing, split_N: np.ndarray) -> Iterator[str]:
    """Makes items of work: the names of some files, and a digit for the split of each."""
    start, size = 0, 0
    sizes = found.facts[:, 0].tolist()
    for at, more in enumerate([*sizes, math.inf]):
        if at > start and (at - start == GROUP_FILES or size + more > GROUP_BYTES):
            yield json.dumps([found.names[start:at], "".join(map(str, split_N[start:at]))])
            start, size = at, 0
        size += more


def _shape(found: Listing, items: list[str], image_size: int) -> Shape:
    """Finds the shape that all images are brought to."""
    sizes_N2, colours, done = np.empty((len(found), 2), np.int32), 1, 0
    reading = loading.Pass("first", len(found), "files")
    for part in stream.through(items, partial(survey, root=found.root, image_size=image_size)):
        sizes = part["sizes"].reshape(-1, 2)
        sizes_N2[done : done + len(sizes)] = sizes
        colours, done = max(colours, int(part["colours"].max())), done + len(sizes)
        reading.add(len(sizes))
    folders.check_sizes(sizes_N2, found)
    return colours, int(sizes_N2[0, 0]), int(sizes_N2[0, 1])


def survey(item: str, root: str, image_size: int) -> Iterator[Part]:
    """Looks at some files: their heights and widths, and how many colours they have, as one part."""
    pictures = folders.Pictures(root, image_size)
    shapes = np.array([pictures.outline(name) for name in json.loads(item)[0]], np.int32)
    yield {"colours": shapes[:, 0], "sizes": shapes[:, 1:].ravel()}


def decoded(item: str, root: str, shape: Shape, image_size: int) -> Iterator[Part]:
    """Decodes some files, a part for as many as PART_BYTES hold: pixels, fingerprints, and counts for the mean."""
    pictures = folders.Pictures(root, image_size)
    names, marks = json.loads(item)
    files = iter(zip(names, marks, strict=True))
    most = max(1, PART_BYTES // math.prod(shape))
    while some := list(islice(files, most)):
        pixels_BCHW = np.empty((len(some), *shape), np.uint8)
        for at, (name, _) in enumerate(some):
            image_CHW = pictures.decode(name)
            if image_CHW.shape[1:] != shape[1:] or len(image_CHW) > shape[0]:
                raise ValueError(f"{f'{root}/{name}'!r} has changed while it was read; start again")
            pixels_BCHW[at] = image_CHW  # grey ones are repeated for each colour
        learned = np.array([mark == TRAIN for _, mark in some])
        prints = examples.fingerprints(image_CHW.tobytes() for image_CHW in pixels_BCHW)
        counts = data.histogram(pixels_BCHW[learned]).ravel()
        yield {"pixels": pixels_BCHW.ravel(), "prints": prints.numpy(), "counts": counts}


def _write(writer: Writer, parts: Iterator[Part], found: Listing, split_N: np.ndarray, shape: Shape) -> dict[str, Any]:
    """Appends all parts; returns the digest, and mean and deviation of the training split."""
    digest, counts, done = examples.Digest(), np.zeros(shape[0] * 256, np.int64), 0
    digest.add(repr((len(found), *shape)).encode())
    digest.begin(len(found) * math.prod(shape))
    reading = loading.Pass("second", len(found), "files")
    for part in parts:
        count = len(part["prints"])
        own_B, targets_B = split_N[done : done + count], found.targets[done : done + count]
        pixels_BP = part["pixels"].reshape(count, -1)
        for number, name in enumerate(SPLITS):
            chosen = own_B == number
            writer.append(f"{name}.images", pixels_BP[chosen].ravel())
            writer.append(f"{name}.prints", part["prints"][chosen])
            writer.append(f"{name}.targets", targets_B[chosen])
        digest.go_on(part["pixels"].data)
        counts, done = counts + part["counts"], done + count
        reading.add(count)
    digest.add(found.targets.tobytes())
    digest.add("\n".join(found.labels).encode())
    mean, std = data.moments(counts.reshape(-1, 256))
    return {"digest": digest.hex(), "mean": mean, "std": std}
