"""MNIST: test accuracy of the default recipe, and time to 99.0 % against the article's own loop.

    python -m benchmarks.mnist accuracy
    python -m benchmarks.mnist time --threads 2

Reads MNIST's idx files from `mnist` in EAGERLY_TEST_DATA (default ../shared/data). `time` runs both loops in
turn, seed by seed, with the same threads. The clock of both counts reading the data and every step; tests after
each epoch, and our loop's validation and checkpoints, are off the clock. The article's loop is given up after
10 epochs: what it took by then is the least its time can be.
"""

import argparse
import gzip
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from pipelines import loop, tasks
from pipelines.classifier import networks
from pipelines.classifier.config import Config
from pipelines.place import Place

TARGET = 0.99
ARTICLE_EPOCHS = 10
EPOCHS = 2
"""Length of the default recipe's schedule when it is only to reach 99.0 %."""
Timed = tuple[float, float, int]
"""Seconds on the clock, last test accuracy, epochs."""


def main() -> None:
    """Runs one of the two benchmarks and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "time"))
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them, to run them one at a time")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    first = arguments.first_seed
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = unpack(Path(os.environ.get("EAGERLY_TEST_DATA", "../shared/data")) / "mnist", Path(scratch))
        table = accuracy if arguments.what == "accuracy" else race
        table(data_dir, Path(scratch), range(first, first + arguments.seeds), arguments.threads)


def unpack(source: Path, scratch: Path) -> Path:
    """Unpacks the files to where torchvision looks for them; both loops read them there."""
    raw = scratch / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in source.glob("*-ubyte.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return scratch


def accuracy(data_dir: Path, scratch: Path, seeds: range, threads: int) -> None:
    """Trains the default recipe with each seed and prints test accuracies and their mean."""
    task, place = tasks.find("classifier"), Place(threads=threads)
    print("| seed | test accuracy | macro F1 | log loss | calibration error | seconds |\n|---|---|---|---|---|---|")
    accuracies = []
    for seed in seeds:
        config = Config(dataset="mnist", data_dir=str(data_dir), seed=seed)
        started = time.perf_counter()
        found = loop.run(task, config, scratch / f"run-{seed}", place)
        seconds = time.perf_counter() - started
        accuracies.append(found["accuracy"])
        values = " | ".join(f"{found[name]:.4f}" for name in ("accuracy", "macro_f1", "loss", "ece"))
        print(f"| {seed} | {values} | {seconds:.0f} |", flush=True)
    print(f"| mean | {statistics.mean(accuracies):.4f} | | | | |")


def race(data_dir: Path, scratch: Path, seeds: range, threads: int) -> None:
    """Times both loops with each seed and prints seconds and the median of their ratios."""
    print("| seed | article's loop | its accuracy | epochs | eagerly | its accuracy | epochs | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = []
    for seed in seeds:
        ours, ours_reached, ours_epochs = eagerly(data_dir, scratch / f"run-{seed}", seed, threads)
        theirs, theirs_reached, theirs_epochs = article(data_dir, seed)
        ratios.append(ours / theirs if ours_reached >= TARGET else float("inf"))
        given_up = "" if theirs_reached >= TARGET else "over "
        print(
            f"| {seed} | {given_up}{theirs:.1f} s | {theirs_reached:.4f} | {theirs_epochs}"
            f" | {ours:.1f} s | {ours_reached:.4f} | {ours_epochs} | {ratios[-1]:.3f} |",
            flush=True,
        )
    print(f"| median | | | | | | | {statistics.median(ratios):.3f} |")


def eagerly(data_dir: Path, run_dir: Path, seed: int, threads: int) -> Timed:
    """Times the default network and recipe, with a schedule of EPOCHS epochs, in our loop."""
    config = Config(dataset="mnist", data_dir=str(data_dir), seed=seed, epochs=EPOCHS)
    task = tasks.find("classifier")
    clock = Clock()
    with clock:
        place = Place(threads=threads)
        worker = loop.Worker(task, config, run_dir, place, lambda event: None, task.data.load(config), 0)
    reached = 0.0
    while worker.progress.epoch < EPOCHS and reached < TARGET:
        with clock:
            worker.train_epoch()
        worker.finish_epoch()
        reached = task.train.metrics(worker.evaluator.evaluate(worker.data.test))["accuracy"]
        _note("eagerly", worker.progress.epoch, clock, reached)
    return clock.seconds, reached, worker.progress.epoch


def article(data_dir: Path, seed: int) -> Timed:
    """Times the article's loop, written as the article would: a DataLoader, ToTensor, Adam, batches of 64."""
    torch.manual_seed(seed)
    clock = Clock()
    with clock:
        train = DataLoader(MNIST(data_dir, train=True, transform=ToTensor()), batch_size=64, shuffle=True)
        model = networks.article((1, 28, 28), 10)
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    test = _whole(MNIST(data_dir, train=False))
    reached, epoch = 0.0, 0
    while epoch < ARTICLE_EPOCHS and reached < TARGET:
        with clock:
            for images, labels in train:
                optimizer.zero_grad()
                loss = criterion(model(images), labels)
                loss.backward()
                optimizer.step()
        epoch += 1
        reached = _accuracy(model, *test)
        _note("article", epoch, clock, reached)
    return clock.seconds, reached, epoch


def _whole(test: MNIST) -> tuple[torch.Tensor, torch.Tensor]:
    return test.data[:, None].float() / 255, test.targets


def _accuracy(model: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in images.split(1000)])
    return float((predicted == labels).double().mean())


def _note(whose: str, epoch: int, clock: "Clock", reached: float) -> None:
    print(f"{whose}: epoch {epoch}, {clock.seconds:.1f} s, test accuracy {reached:.4f}", file=sys.stderr, flush=True)


class Clock:
    """Counts the seconds spent inside its `with` blocks."""

    def __init__(self) -> None:
        """Starts at 0."""
        self.seconds = 0.0

    def __enter__(self) -> None:
        """Goes on counting."""
        self._since = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        """Stops counting."""
        self.seconds += time.perf_counter() - self._since


if __name__ == "__main__":
    main()
