"""A folder of images learned from in memory, as a stream, and as a stream that was decoded before: time and memory.

`python -m benchmarks.streaming [--images 20000] [--side 64] [--epochs 1]` draws coloured PNG files and trains the
classifier on them in a process of its own for each way, without Ray. Resident memory counts pages of mapped files,
which the system takes back when it needs them; anonymous memory is what it cannot take back. Both are the most that
they grow by beyond the imports.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import runs as logs
from pipelines import loop, sealed, tasks
from pipelines.journal import Journal
from pipelines.place import Place

CLASSES = 10
POLL_SECONDS = 0.01
WAYS = ("memory", "stream", "stream, decoded before")


class Memory(threading.Thread):
    """Watches how much more memory this process has than when it began to watch, in MB."""

    def __init__(self) -> None:
        """Begins to watch."""
        super().__init__(daemon=True)
        self._before = _memory()
        self.most = dict.fromkeys(self._before, 0.0)
        self.start()

    def run(self) -> None:
        """Looks until the process ends."""
        while True:
            for name, value in _memory().items():
                self.most[name] = max(self.most[name], value - self._before[name])
            time.sleep(POLL_SECONDS)


def _memory() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":") for line in lines)
    return {name: int(found[key].split()[0]) / 1024 for name, key in (("resident", "VmRSS"), ("anonymous", "RssAnon"))}


def draw(folder: Path, count: int, side: int) -> None:
    """Writes images that differ by class in their mean, and else are noise."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        low = number % CLASSES * 12
        Image.fromarray(random.integers(low, low + 128, (side, side, 3), np.uint8)).save(path, compress_level=1)


def learn(folder: Path, run_dir: Path, streamed: bool, epochs: int) -> None:
    """Trains in this process, and writes down what it took."""
    import pyarrow.fs  # noqa: F401
    import ray  # noqa: F401

    task = tasks.find("classifier")
    config = task.config.Config(data=str(folder), stream=streamed, epochs=epochs)
    run_dir.mkdir()
    memory, journal, began = Memory(), Journal(run_dir), time.perf_counter()
    data = task.data.load(config)
    loaded = time.perf_counter()
    loop.run(task, config, run_dir, Place(threads=os.cpu_count() or 1), journal.append, data)
    journal.close()
    took = {"load": loaded - began, "train": time.perf_counter() - loaded}
    (run_dir / "took.json").write_text(json.dumps({**took, **memory.most}))


def main() -> None:
    """Trains each way once and prints a table; ends with an error when the weights differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learn", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.learn:
        return learn(Path(given.learn[0]), Path(given.learn[1]), given.learn[2] != WAYS[0], given.epochs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "images", given.images, given.side)
        size = given.images * given.side**2 * 3 / 2**20
        print(
            f"{given.images:,} images of {given.side} x {given.side}, {size:,.0f} MB of pixels, {given.epochs} epochs"
        )
        print(f"{'':<24}{'load, s':>10}{'train, s':>10}{'resident, MB':>14}{'anonymous, MB':>15}")
        weights = set[str]()
        for way in WAYS:
            words = ["-m", "benchmarks.streaming", f"--epochs={given.epochs}", "--learn"]
            environment = {"EAGERLY_HOME": str(folder / "home"), "PYTHONPATH": str(Path(__file__).parents[1])}
            logs.execute([*words, str(folder / "images"), str(folder / way), way], folder, environment)
            took = json.loads((folder / way / "took.json").read_text())
            row = f"{took['load']:>10.1f}{took['train']:>10.1f}{took['resident']:>14,.0f}{took['anonymous']:>15,.0f}"
            print(f"{way:<24}{row}", flush=True)
            weights.add(sealed.hash_file(folder / way / "artifact" / "model.safetensors"))
    sys.exit(0 if len(weights) == 1 else "the weights differ")


if __name__ == "__main__":
    main()
