"""What checkpoints cost the training: how long steps wait for them, and how much longer a run takes.

    python -m benchmarks.checkpoints [--pairs 5] [--epochs 6] [--every-steps 0] [--arch resnet18]

One worker, one thread, a ResNet-18 on the digits, whose checkpoint has more than 100 MB. Runs that write one after
every epoch (and every N steps with --every-steps) alternate with runs that write one at the end only. The loop
itself says how long the step's thread waited for each checkpoint, copy and queue included; the figure is their sum
over the wall time from the first step to the last, and must be at most 1 %. The ratio of the two runs' wall times is
shown beside it: where all cores are busy, hashing and writing take their time from the training even though no step
waits for them.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import runs

LIMIT = 0.01
RESULTS = Path("benchmarks/results")
PROGRAM = """
import sys
from pathlib import Path
from pipelines import loop, saving, tasks
from pipelines.journal import Journal
from pipelines.place import Place
folder, arch, (epochs, steps, batch, each) = Path(sys.argv[1]), sys.argv[2], map(int, sys.argv[3:])
saving.Saver.is_ready = lambda self: bool(each)
task = tasks.find("classifier")
config = task.config.Config(arch=arch, epochs=epochs, batch_size=batch)
journal = Journal(folder)
loop.run(task, config, folder, Place(threads=1), journal.append, checkpoint_steps=steps)
journal.close()
"""


@dataclass(frozen=True)
class Pair:
    """A run with checkpoints and one without, one after the other."""

    seconds: float
    without_seconds: float
    blocked_seconds: float
    writing_seconds: float
    written: int

    @property
    def blocked_share(self) -> float:
        """The share of the run's time in which a step waited for a checkpoint."""
        return self.blocked_seconds / self.seconds


def span_seconds(folder: Path) -> float:
    """Gives the time from the start of the first step to the end of the last epoch."""
    return runs.events(folder, "testing")[-1]["time"] - runs.events(folder, "start")[0]["time"]


def measure(folder: Path, asked: argparse.Namespace, swapped: bool) -> Pair:
    """Trains both, in either order."""
    epochs, steps, batch = asked.epochs, asked.every_steps, asked.batch
    for name in ("without", "with") if swapped else ("with", "without"):
        numbers = [str(epochs), str(steps if name == "with" else 0), str(batch), str(int(name == "with"))]
        runs.execute(["-c", PROGRAM, str(folder / name), asked.arch, *numbers], folder)
    events = runs.events(folder / "with", "checkpoint")
    return Pair(
        span_seconds(folder / "with"),
        span_seconds(folder / "without"),
        sum(event["blocked_seconds"] for event in events),
        sum(event["seconds"] for event in events),
        len(events),
    )


def interval(values: list[float], seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """Gives the middle 95 % of the median over samples drawn with replacement."""
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(draws * 0.025)], medians[int(draws * 0.975)]


def main(words: list[str]) -> int:
    """Alternates runs with and without checkpoints; returns 1 when steps wait for more than 1 % of the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--arch", default="resnet18", help="network of the classifier")
    parser.add_argument("--every-steps", type=int, default=0, help="also every N steps; 0 only after every epoch")
    arguments = parser.parse_args(words)
    pairs = []
    for number in range(arguments.pairs):
        folder = Path(tempfile.mkdtemp(prefix="eagerly-checkpoints-"))
        pair = measure(folder, arguments, number % 2 == 1)
        size = sum(path.stat().st_size for path in max((folder / "with" / "checkpoints").glob("step-*")).iterdir())
        shutil.rmtree(folder)
        pairs.append(pair)
        print(
            f"pair {number}: {pair.written} checkpoints of {size / 1e6:.0f} MB in {pair.seconds:.1f} s, blocked "
            f"{pair.blocked_share:.2%}, ratio to none {pair.seconds / pair.without_seconds:.3f}",
            flush=True,
        )
    shares, ratios = [pair.blocked_share for pair in pairs], [pair.seconds / pair.without_seconds for pair in pairs]
    for name, values in (("share of time that steps wait", shares), ("wall time against none", ratios)):
        low, high = interval(values)
        print(f"{name}: median {statistics.median(values):.4f} ({low:.4f} to {high:.4f}, {len(values)} pairs)")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "checkpoints.json").write_text(json.dumps([asdict(pair) for pair in pairs], indent=2))
    return int(statistics.median(shares) > LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
