"""Thirty trials with ASHA against thirty full runs of the same configurations: time, and what the best is worth.

    python -m benchmarks.tuning [--task sentiment] [--trials 30] [--max-epochs 8] [--rounds 3]

Each round draws configurations from the task's own search space, with a seed of its own, and searches them twice, in
alternating order, in one Ray cluster that is started before: with ASHA, and with every trial run to its end. The
ratio is of the two searches' wall times, from the first configuration that is asked for to the last trial's end,
starts of trial processes included. What ASHA picks is worth what it reached when it ran to its end; that is compared
with the best of all. Noise is what chance alone makes of a split of that size: 1.96 standard errors of the metric.
Raw results go to benchmarks/results/tuning.json.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving import interval
from eagerly import table
from pipelines import launch, spaces, tasks, trials
from pipelines.journal import Journal
from pipelines.settings import Launch

RESULTS = Path("benchmarks/results/tuning.json")
LIMIT = 1 / 3


@dataclass(frozen=True)
class Round:
    """One set of configurations, searched in both ways."""

    asha_s: float
    full_s: float
    ratio: float
    picked: float
    """Validation metric, at its full length, of what ASHA picked."""
    best: float
    """Validation metric of the best of all full runs."""
    noise: float
    epochs: float
    """Epochs that ASHA's trials took, as a share of those of the full runs."""

    @property
    def is_same(self) -> bool:
        """Whether what ASHA picked is the best within noise."""
        return self.picked >= self.best - self.noise


def draw(word: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Draws configurations evenly from a task's own space."""
    import optuna

    from pipelines.tuning import distribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = tasks.find(word).config.Config()
    space = spaces.parse(spaces.of(tasks.find(word).config, config), config)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found = [study.ask({name: distribution(one) for name, one in space.items()}) for _ in range(count)]
    return [trial.params for trial in found]


def run(
    word: str, values: list[dict[str, Any]], max_epochs: int, scheduler: Any, folder: Path
) -> tuple[float, trials.Trial]:
    """Searches the configurations; returns the seconds it took and the best trial."""
    from pipelines import tuning

    config = tasks.find(word).config.Config()
    search = trials.Search(len(values), max_epochs, scheduler)
    made = trials.create(word, config, Launch(local=True, run_dir=str(folder)), search)
    journal = Journal(folder)
    for number, one in enumerate(values):
        journal.append({"event": "trial", "number": number, "values": one})
    journal.close()
    began = time.monotonic()
    best = tuning.search(made, lambda sentence: None)
    return time.monotonic() - began, best


def play(word: str, values: list[dict[str, Any]], max_epochs: int, asha_first: bool, examples: int) -> Round:
    """Searches in both ways and compares."""
    with tempfile.TemporaryDirectory(prefix="eagerly-tuning-") as place:
        ways = ("asha", "none") if asha_first else ("none", "asha")
        found = {way: run(word, values, max_epochs, way, Path(place) / way) for way in ways}
        full = trials.known(Path(place) / "none")
        taken = sum(trial.epochs for trial in trials.known(Path(place) / "asha").values())
        epochs = taken / sum(trial.epochs for trial in full.values())
        best, picked = found["none"][1].value, full[found["asha"][1].number].value
    noise = 1.96 * math.sqrt(max(best * (1 - best), 0.0) / examples)
    asha_s, full_s = found["asha"][0], found["none"][0]
    return Round(asha_s, full_s, asha_s / full_s, picked, best, noise, epochs)


def main() -> None:
    """Plays the rounds; exits with 1 when ASHA took more than a third of the time, or picked a worse one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="sentiment", choices=("sentiment", "classifier"))
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--max-epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    task = tasks.find(asked.task)
    examples = len(task.data.load(task.config.Config()).valid)
    launch.start_ray(Launch(workers=1))
    rounds: list[Round] = []
    for seed in range(asked.rounds):
        values = draw(asked.task, asked.trials, seed)
        rounds.append(play(asked.task, values, asked.max_epochs, seed % 2 == 0, examples))
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps([asdict(one) for one in rounds], indent=2))
        print(table.render(("round", str(seed)), list(asdict(rounds[-1]).items())), flush=True)
    ratios = [one.ratio for one in rounds]
    low, high = interval(ratios)
    same = sum(one.is_same for one in rounds)
    said = f"time ratio {statistics.mean(ratios):.3f} ({low:.3f} to {high:.3f})"
    print(f"{said}; the same best within noise in {same} of {len(rounds)} rounds")
    sys.exit(statistics.mean(ratios) > LIMIT or same < len(rounds))


if __name__ == "__main__":
    main()
