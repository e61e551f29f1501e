"""Measures how often the gate errs, on predictions of real models that are resampled: minutes, no training cluster.

    python -m benchmarks.gate [--trials 400] [--quick]

Two classifiers that differ in their seed alone, and a weaker one, are trained on the same digits. Test splits of
several sizes are drawn from their answers with replacement. Where both models are made equal, which one is the new
version is drawn by lot for each example, so that the gate must refuse: how often it does not is its error. Where some
of the examples are mended, or those of one class are spoiled, it must find that: how often it does is its power. All
shares come with Wilson's 95 % interval. Ends with 1 when equal models pass more often than 1 - confidence allows.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eagerly import table
from pipelines import gate, loop, resampling, results, tasks
from pipelines.place import Place
from pipelines.verdict import Answers, Pair, Rules, Verdict

RESULTS = Path("benchmarks/results/gate.json")
SIZES, GAINS, FALLS = (200, 500, 1_000, 2_000, 5_000), (0.01, 0.02, 0.04), (0.05, 0.1, 0.3)
RULES = Rules()
Columns = dict[str, NDArray[Any]]
Plant = Callable[[Columns, Columns, np.random.Generator], tuple[Columns, Columns]]


def trained(seed: int, epochs: int) -> Columns:
    """Trains the classifier on digits; gives its results on the test split, split by seed 0 for all."""
    task = tasks.find("classifier")
    data = task.data.load(task.config.Config())
    config = task.config.Config(arch="article", epochs=epochs, batch_size=256, augment=False, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        loop.run(task, config, Path(folder), Place(threads=1), data=data)
        found = results.read(Path(folder))
    assert found is not None, "a run of the classifier keeps its results"
    return found.columns


def equal(one: Columns, other: Columns, generator: np.random.Generator) -> tuple[Columns, Columns]:
    """Shuffles the two models' answers example by example: in truth neither is better, however far apart they are."""
    swapped_N = generator.random(len(one["target"])) < 0.5
    return tuple(  # type: ignore[return-value]
        {name: np.where(swapped_N, two[name], first[name]) for name in first}
        for first, two in ((one, other), (other, one))
    )


def mended(share: float) -> Plant:
    """Makes the new version right on a share of the examples that an equal one has wrong."""

    def plant(one: Columns, other: Columns, generator: np.random.Generator) -> tuple[Columns, Columns]:
        ours, theirs = equal(one, other, generator)
        wrong_N = np.flatnonzero(ours["guess"] != ours["target"])
        count = min(len(wrong_N), round(share * len(ours["target"])))
        return _answered(ours, generator.permutation(wrong_N)[:count], 0), theirs

    return plant


def spoiled(fall: float) -> Plant:
    """Makes the new version better, and wrong on a share of one class's examples that it had right."""

    def plant(one: Columns, other: Columns, generator: np.random.Generator) -> tuple[Columns, Columns]:
        ours, theirs = mended(0.5)(one, other, generator)
        right_N = np.flatnonzero((ours["guess"] == ours["target"]) & (ours["target"] == 0))
        return _answered(ours, generator.permutation(right_N)[: round(fall * len(right_N))], 1), theirs

    return plant


def _answered(columns: Columns, places: NDArray[np.int64], off: int) -> Columns:
    """Answers some examples by the label that is `off` the true one, as surely as before."""
    changed = {name: column_N.copy() for name, column_N in columns.items()}
    changed["guess"][places] = (changed["target"][places] + off) % 10
    confidence = changed["confidence"][places]
    changed["brier"][places] = (1 - confidence) ** 2 if off == 0 else 1 + confidence**2
    return changed


def judged(ours: Columns, theirs: Columns, seed: int) -> Verdict:
    """Lets the gate judge, as training does."""
    own, other = (
        Answers((one["guess"] == one["target"]).astype(float), one["guess"], one["confidence"], one["brier"])
        for one in (ours, theirs)
    )
    slices = {"class": ([str(label) for label in range(10)], ours["target"])}
    return gate.decide(Pair("accuracy", own, other, ours["target"], slices), RULES, seed)


def verdicts(one: Columns, other: Columns, size: int, plant: Plant, trials: int) -> list[Verdict]:
    """Judges test splits of a size, drawn with replacement from the examples that both models answered."""
    found = []
    for trial in range(trials):
        generator = np.random.default_rng([size, trial])
        drawn_N = generator.integers(0, len(one["target"]), size)
        ours, theirs = plant(
            {k: v[drawn_N] for k, v in one.items()}, {k: v[drawn_N] for k, v in other.items()}, generator
        )
        found.append(judged(ours, theirs, trial))
    return found


def share(hits: int, trials: int) -> tuple[float, float, float]:
    """Gives a share with its 95 % interval (Wilson, 1927)."""
    z, p = 1.96, hits / trials
    middle, width = p + z**2 / (2 * trials), z * (p * (1 - p) / trials + z**2 / (4 * trials**2)) ** 0.5
    return p, (middle - width) / (1 + z**2 / trials), (middle + width) / (1 + z**2 / trials)


def measure(sizes: tuple[int, ...], trials: int) -> list[dict[str, Any]]:
    """Measures every planted difference at every size."""
    one, other, weak = trained(1, 6), trained(2, 6), trained(3, 2)
    cases: list[tuple[str, Columns, Plant, Callable[[Verdict], bool]]] = [
        ("equal models of two seeds: promoted", other, equal, lambda found: found.promoted),
        ("equal models far apart: promoted", weak, equal, lambda found: found.promoted),
        *((f"better by {gain:.0%}: promoted", weak, mended(gain), lambda found: found.promoted) for gain in GAINS),
        ("better by much: a class refused", weak, mended(0.5), _a_class_fell),
        *((f"a class fell by {fall:.0%}: refused for it", weak, spoiled(fall), _a_class_fell) for fall in FALLS),
    ]
    rows = []
    for name, second, plant, hit in cases:
        for size in sizes:
            hits = sum(hit(found) for found in verdicts(one, second, size, plant, trials))
            rows.append({"case": name, "size": size, "trials": trials, "share": share(hits, trials)})
            print(".", end="", file=sys.stderr, flush=True)
    return rows


def _a_class_fell(found: Verdict) -> bool:
    return any(one.state == "fell" for one in found.slices)


def main(words: list[str]) -> int:
    """Prints the shares; returns 1 when equal models were promoted more often than they may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="small: 100 trials, 1,000 resamples, two sizes")
    arguments = parser.parse_args(words)
    trials, sizes = (100, SIZES[:2]) if arguments.quick else (arguments.trials, SIZES)
    resampling.ROUNDS = resampling.LEAST_ROUNDS if arguments.quick else 2_000
    rows = measure(sizes, trials)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2))
    shown = [(row["case"], row["size"], *(f"{100 * part:.1f} %" for part in row["share"])) for row in rows]
    print(f"\n{table.render(('case', 'test examples', 'share', 'from', 'to'), shown)}")
    worst = max(row["share"][1] for row in rows if row["case"].startswith("equal"))
    return int(worst > 1 - RULES.confidence)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
