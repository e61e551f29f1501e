"""Two workers against one: the same losses, and the same accuracy.

`python -m benchmarks.ddp losses` compares the first 200 losses of 2 x 32 with those of 1 x 64 (article's net, SGD,
no augmentation, fp32); `python -m benchmarks.ddp accuracy` trains the default recipe on digits with both, 3 seeds.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import runs

ARTICLE = ["--arch", "article", "--optimizer", "sgd", "--lr", "0.05", "--schedule", "constant", "--no-augment"]
STEPS, LIMIT = 200, 1e-4


def main() -> None:
    """Runs the comparison that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=("losses", "accuracy"))
    parser.add_argument("--seeds", type=int, default=3)
    flags = parser.parse_args()
    _losses() if flags.figure == "losses" else _accuracy(flags.seeds)


def _losses() -> None:
    words = [*ARTICLE, "--epochs", "10", "--batch-size", "64"]
    one, two = (_train(words, workers) for workers in (1, 2))
    pairs = list(zip(runs.losses(one)[:STEPS], runs.losses(two)[:STEPS], strict=True))
    worst = max(abs(a - b) for a, b in pairs)
    print(f"{len(pairs)} steps, loss {pairs[0][0]:.4f} to {pairs[-1][0]:.4f}, largest difference {worst:.1e}")
    sys.exit(not (len(pairs) == STEPS and worst <= LIMIT))


def _accuracy(seeds: int) -> None:
    found: dict[int, list[float]] = {1: [], 2: []}
    for seed in range(seeds):
        for workers, values in found.items():
            values.append(runs.test_metrics(_train(["--seed", str(seed)], workers))["accuracy"])
            print(f"seed {seed}, {workers} worker(s): test accuracy {values[-1]:.4f}", flush=True)
    means = [statistics.mean(values) for values in found.values()]
    spread = max(statistics.stdev(values) for values in found.values())
    print(f"1 worker {means[0]:.4f}, 2 workers {means[1]:.4f}, difference {means[1] - means[0]:+.4f}", end="")
    print(f", standard deviation over seeds {spread:.4f}")


def _train(words: list[str], workers: int) -> Path:
    """Trains under torchrun with one thread a process, so that both compute the same sums; returns the run folder."""
    folder = Path(tempfile.mkdtemp(prefix="eagerly-ddp-"))
    words = ["--threads", "1", "--run-dir", str(folder / "run"), *words]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(workers), "--standalone"]
    runs.execute([*torchrun, "-m", "eagerly", "train", "classifier", *words], folder, {"OMP_NUM_THREADS": "1"})
    return folder / "run"


if __name__ == "__main__":
    main()
