"""NDCG@10 of the recommender against EASE and popularity on goodbooks-10k, over the same random splits.

    python -m benchmarks.recommender --seeds 3

Reads goodbooks-10k (298,176 ratings of 2,672 users, 10,000 books) from EAGERLY_TEST_DATA (default
../shared/data). Every rating is a positive; by the seed, a fifth of each user's books is the test split and a
tenth of the rest the validation split. All books are ranked, except those the user is known to have.

The model's weights are learned from the training split (72 %) and chosen by the validation split; EASE's and
popularity's are learned from both together (80 %), EASE with the penalty that is best on the validation split
when learned from the training split. In testing all three get the same 80 % as each user's history.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from pipelines import loop, tasks
from pipelines.place import Place
from pipelines.recommender.config import Config


def main() -> None:
    """Trains on each split, prints each split's figures and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="random splits, seeds 0, 1, ...")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to PyTorch")
    arguments = parser.parse_args()
    folder = Path(os.environ.get("EAGERLY_TEST_DATA", "../shared/data")) / "goodbooks-10k"
    print("| split | model | EASE | popularity | model / EASE | seconds |\n|---|---|---|---|---|---|")
    rows = []
    for seed in range(arguments.seeds):
        started = time.perf_counter()
        figures = ndcg(Config(data=str(folder), seed=seed), arguments.threads)
        rows.append((*figures, figures[0] / figures[1], time.perf_counter() - started))
        print(_row(str(seed), rows[-1]), flush=True)
    print(_row("mean", tuple(statistics.mean(column) for column in zip(*rows, strict=True))))


def ndcg(config: Config, threads: int) -> tuple[float, float, float]:
    """Trains and tests once; NDCG@10 of the model, EASE and popularity."""
    with tempfile.TemporaryDirectory() as scratch:
        metrics = loop.run(tasks.find("recommender"), config, Path(scratch) / "run", Place(threads=threads))
    return metrics["ndcg_at_10"], metrics["ease_ndcg_at_10"], metrics["popularity_ndcg_at_10"]


def _row(name: str, figures: tuple[float, ...]) -> str:
    *metrics, seconds = figures
    return f"| {name} | {' | '.join(f'{metric:.4f}' for metric in metrics)} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
