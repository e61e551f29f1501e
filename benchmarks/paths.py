"""How much faster each way to run a model is than eager, on the ConvNet (28x28) and the MiniLM encoder, at one thread.

    python -m benchmarks.paths --rounds 20

The ways are those that `eagerly serve --paths fast` tries. Every round times all in turn, in an order that
moves on. A figure is the median CPU time, which at one thread is what an idle machine takes; a ratio is eager's over
the way's, its interval a bootstrap over the rounds. Raw results go to benchmarks/results/paths.json.

What is timed is Model.predict, from an item to its labels: one image, or one text of 25 words, as often as the batch is
large. `reviews` is the encoder on sentences of sentence-polarity in the order of its file, long and short together;
`one padding` fills all of a batch up to its longest.
"""

import argparse
import copy
import csv
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers import workloads
from benchmarks.serving import SIDE, interval
from services import paths

BATCHES = (1, 8, 64)
LEAST_S = 0.02
"""A figure is of as many runs as take so long."""
Predict = Callable[[list[Any]], list[Any]]


def main() -> None:
    """Measures both models and prints the table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=["convnet", "encoder", "reviews"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | batch | path | ms | ratio (95 %) | largest difference of a score |\n" + "|---" * 6 + "|")
    raw = {name: _model(name, arguments.rounds) for name in arguments.models}
    kept = Path("benchmarks/results")
    kept.mkdir(exist_ok=True)
    (kept / "paths.json").write_text(json.dumps(raw, indent=2))


def _model(name: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Measures a model at each size of batch."""
    with tempfile.TemporaryDirectory() as scratch:
        model, items = load(name, Path(scratch) / "model")
    ways = {"eager": model.predict}
    for way in paths.ways("fast", 0.01):
        network = way.rewrite(model.network)
        if network is not None:
            ways[way.name] = _with(model, network)
    if name == "reviews":
        ways["one padding"] = _padded(model)
    results = {}
    for size in BATCHES:
        inputs = items[:size]
        seconds = _rounds(ways, inputs, rounds)
        results[str(size)] = seconds
        for word, predict in ways.items():
            ratios = [eager / own for eager, own in zip(seconds["eager"], seconds[word], strict=True)]
            low, high = interval(ratios)
            ms = statistics.median(seconds[word]) * 1e3
            difference = _difference(model.predict(inputs), predict(inputs))
            ratio = f"{statistics.mean(ratios):.2f} ({low:.2f} to {high:.2f})"
            print(f"| {name} | {size} | {word} | {ms:.2f} | {ratio} | {difference:.1e} |", flush=True)
    return results


def load(name: str, folder: Path) -> tuple[Any, list[Any]]:
    """Makes a model and a full batch of inputs for it."""
    import numpy as np

    from pipelines import sentiment, tasks

    workload = workloads.make("convnet" if name == "convnet" else "encoder", folder)
    model = tasks.find(workload.task).model.Model.load(folder)
    if name == "convnet":
        return model, [np.frombuffer(workload.item, np.uint8).reshape(SIDE, SIDE)] * BATCHES[-1]
    if name == "encoder":
        return model, [workload.item.decode()] * BATCHES[-1]
    sample = Path(sentiment.__path__[0]) / "sample" / "sentence-polarity.csv"
    with sample.open(encoding="utf-8", newline="") as rows:
        return model, [row["text"] for row in itertools.islice(csv.DictReader(rows), BATCHES[-1])]


def _padded(model: Any) -> Predict:
    """Has an encoder compute a batch as the network from scratch does, all texts together."""
    twin = copy.copy(model)
    twin.settings = {key: value for key, value in model.settings.items() if key != "encoder"}
    return twin.predict


def _with(model: Any, network: Any) -> Predict:
    twin = copy.copy(model)
    twin.network = network
    return twin.predict


def _rounds(ways: dict[str, Predict], inputs: list[Any], rounds: int) -> dict[str, list[float]]:
    """Times all ways in turn; seconds a run, by way."""
    seconds: dict[str, list[float]] = {word: [] for word in ways}
    words = list(ways)
    counts = {word: max(1, int(LEAST_S / _seconds(ways[word], inputs, 2))) for word in words}
    for number in range(rounds):
        start = number % len(words)
        for word in (*words[start:], *words[:start]):
            seconds[word].append(_seconds(ways[word], inputs, counts[word]))
    return seconds


def _seconds(predict: Predict, inputs: list[Any], count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        predict(inputs)
    return (time.process_time() - began) / count


def _difference(expected: list[Any], found: list[Any]) -> float:
    pairs = [(dict(one.labels), dict(other.labels)) for one, other in zip(expected, found, strict=True)]
    return max(abs(one[label] - other[label]) for one, other in pairs for label in one)


if __name__ == "__main__":
    main()
