"""Where labelled images come from: the built-in sets.

Shapes: N images, C colours, H height, W width.
"""

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DIGITS = [str(digit) for digit in range(10)]
CLOTHES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}


@dataclass(frozen=True)
class Labelled:
    """Images with their classes; `train_count` says how many come before the set's own test split."""

    images: np.ndarray
    """uint8 [N, C, H, W]"""
    targets: np.ndarray
    """int64 [N]"""
    labels: list[str]
    train_count: int | None = None
    """None where the set has no test split of its own."""


def built_in(name: str, data_dir: str) -> Labelled:
    """Reads a built-in set, downloading it where it is absent; raises ValueError when that fails."""
    if name == "digits":
        return _digits()
    home = os.environ.get("EAGERLY_HOME") or Path.home() / ".eagerly"
    root = Path(data_dir) if data_dir else Path(home) / "datasets"
    if root.exists() and not root.is_dir():
        raise ValueError(f"--data-dir {str(root)!r} is a file; name the folder that holds {name}'s files")
    return _cifar(root) if name == "cifar10" else _idx_set(name, root)


def _digits() -> Labelled:
    from sklearn.datasets import load_digits

    values_NP, targets_N = load_digits(return_X_y=True)  # 64 values of 0 to 16
    images_NP = np.rint(np.asarray(values_NP) * (255 / 16)).astype(np.uint8)
    return Labelled(images_NP.reshape(-1, 1, 8, 8), np.asarray(targets_N, np.int64), DIGITS)


def _idx_set(name: str, root: Path) -> Labelled:
    labels = DIGITS if name == "mnist" else CLOTHES
    folders = [root, root / name, root / TORCHVISION[name] / "raw"]
    if not any(_idx_file(folder, "train-images-idx3-ubyte") for folder in folders):
        _download(name, root)
    folder = next((place for place in folders if _idx_file(place, "train-images-idx3-ubyte")), root)
    parts = [_idx_pair(folder, "train", len(labels)), _idx_pair(folder, "t10k", len(labels))]
    images_NHW, targets_N = (np.concatenate(both) for both in zip(*parts, strict=True))
    return Labelled(images_NHW[:, None], targets_N, labels, train_count=len(parts[0][0]))


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _idx_pair(folder: Path, part: str, class_count: int) -> tuple[np.ndarray, np.ndarray]:
    paths = [_idx_file(folder, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    if None in paths:
        raise ValueError(f"{str(folder)!r} lacks {part}-images-idx3-ubyte or {part}-labels-idx1-ubyte (plain or .gz)")
    image_path, label_path = (path for path in paths if path)
    images_NHW, targets_N = read_idx(image_path, 3), read_idx(label_path, 1).astype(np.int64)
    if len(images_NHW) != len(targets_N) or not len(targets_N):
        raise ValueError(
            f"{str(image_path)!r} holds {len(images_NHW)} images but {label_path.name} {len(targets_N)} labels"
        )
    if targets_N.max() >= class_count:
        raise ValueError(f"{str(label_path)!r} holds the label {targets_N.max()}; 0 to {class_count - 1} are known")
    return images_NHW, targets_N


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads bytes in the idx format of http://yann.lecun.com/exdb/mnist, plain or gzipped.

    Raises ValueError, naming the file, when it is not such a file or is cut short.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{str(path)!r} cannot be read ({error}); download it again") from None
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{str(path)!r} is not an idx file of bytes in {dimensions} dimensions; download it again")
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).astype(np.int64)
    if len(content) - start != shape.prod():
        raise ValueError(
            f"{str(path)!r} holds {len(content) - start} bytes where its header says {shape.prod()}; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(tuple(shape))


def _download(name: str, root: Path) -> None:
    from torchvision import datasets

    try:
        getattr(datasets, TORCHVISION[name])(root, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} is not in {str(root)!r} and could not be downloaded ({reason});"
            " name the folder that holds its files with --data-dir"
        ) from None


def _cifar(root: Path) -> Labelled:
    from torchvision.datasets import CIFAR10

    if not (root / "cifar-10-batches-py").is_dir():
        _download("cifar10", root)
    try:
        parts = [CIFAR10(root, train=train) for train in (True, False)]  # checks the MD5 of every file it reads
    except RuntimeError as error:
        raise ValueError(f"cifar10 in {str(root)!r} is damaged ({error}); remove it to download it again") from None
    images_NHWC = np.concatenate([part.data for part in parts])
    targets_N = np.concatenate([np.asarray(part.targets, np.int64) for part in parts])
    return Labelled(images_NHWC.transpose(0, 3, 1, 2), targets_N, list(parts[0].classes), len(parts[0].data))
