"""The median step under Ray Train with MLflow against the bare loop, one worker, equal threads.

`python -m benchmarks.ray_overhead [--pairs 5]` alternates `eagerly train` through Ray Train with the loop called
from a plain script, both with one thread on the digits data, and prints the ratio of their median steps.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import runs

BATCH, EPOCHS, LIMIT = 64, 240, 1.05
FLAGS = ["--arch", "article", "--epochs", str(EPOCHS), "--batch-size", str(BATCH)]
BARE = """
import sys
from pathlib import Path
from pipelines import loop, tasks
from pipelines.place import Place
from pipelines.journal import Journal
task = tasks.find("classifier")
config = task.config.Config(arch="article", epochs=int(sys.argv[2]), batch_size=int(sys.argv[3]))
run_dir = Path(sys.argv[1])
loop.run(task, config, run_dir, Place(threads=1), Journal(run_dir).append)
"""


def main() -> None:
    """Alternates the two and prints each pair's ratio and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    ratios = []
    for pair in range(parser.parse_args().pairs):
        folder = Path(tempfile.mkdtemp(prefix="eagerly-overhead-"))
        ours = ["-m", "eagerly", "train", "classifier", "--threads", "1", "--run-dir", str(folder / "ray"), *FLAGS]
        bare = ["-c", BARE, str(folder / "bare"), str(EPOCHS), str(BATCH)]
        for words in (ours, bare) if pair % 2 else (bare, ours):
            runs.execute(words, folder)
        ray_ms, bare_ms = (statistics.median(runs.step_ms(folder / name, BATCH)) for name in ("ray", "bare"))
        ratios.append(ray_ms / bare_ms)
        print(f"pair {pair}: {ray_ms:.3f} ms under Ray, {bare_ms:.3f} ms bare, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
    sys.exit(statistics.median(ratios) > LIMIT)


if __name__ == "__main__":
    main()
