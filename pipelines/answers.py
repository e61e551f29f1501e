"""What a champion makes of a run's test examples, in the same columns as the run's own results.

Shapes: B examples of a batch, N of the test split.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examples import Data
from pipelines.registry import Version
from pipelines.results import Results
from pipelines.runs import Run

BATCH = 64
LEAST_SHARE = 0.5
"""Share of the test split whose labels a champion must know to be compared at all."""
COUNTED = ("accuracy", "macro_f1")
"""Primary metrics that are worked out of true and guessed labels."""
Columns = dict[str, NDArray[Any]]


class Incomparable(ValueError):
    """Two models that the gate cannot compare."""


def scores(columns: Columns, primary: str) -> NDArray[np.float64] | None:
    """Gives what each example adds to the primary metric; None where that is not known."""
    if primary in columns:
        return columns[primary].astype(np.float64)
    if primary in COUNTED and "guess" in columns:
        return (columns["guess"] == columns["target"]).astype(np.float64)
    return None


def comparable(found: Results, labels: list[str], version: int) -> tuple[NDArray[np.bool_], list[str]]:
    """Marks the test examples [N] whose true label the champion knows, and says what it lacks.

    Raises Incomparable when it lacks most of them, or knows labels that the new version does not.
    """
    everything_N = np.ones(len(found), np.bool_)
    if "target" not in found.columns or not (found.labels and labels):
        return everything_N, []
    dropped = [label for label in labels if label not in found.labels]
    if dropped:
        raise Incomparable(f"version {version} knows the labels {_some(dropped)}, which the new version does not")
    lacking = [label for label in found.labels if label not in labels]
    if not lacking:
        return everything_N, []
    kept_N = np.isin(found.columns["target"], [found.labels.index(label) for label in lacking], invert=True)
    left = int((~kept_N).sum())
    what = (
        f"version {version} does not know the labels {_some(lacking)}, which {left} of {len(found)} test examples have"
    )
    if kept_N.mean() < LEAST_SHARE:
        raise Incomparable(what)
    return kept_N, [f"{what[0].upper()}{what[1:]}: they are left out."]


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class Source:
    """A champion that is asked a run's test examples."""

    def __init__(self, run: Run, data: Data, model: Any, version: Version, until: float) -> None:
        """Takes the champion; `until`, on the monotonic clock, ends the asking."""
        self.run, self.data, self.model, self.version, self.until = run, data, model, version, until
        self.notes: list[str] = []
        self._refused = 0

    def inputs(self, places: list[int]) -> list[Any]:
        """Gives some test examples as callers would send them."""
        return self.run.task.data.test_inputs(self.data, places)

    def ask(self, places: list[int], found: Results, labels: list[str]) -> Columns:
        """Gives the champion's results of the test examples at `places`.

        Raises Incomparable when it cannot answer them, or not in time.
        """
        seen_as_called = hasattr(self.run.task.data, "test_inputs")
        parts: list[Columns] = []
        for start in range(0, len(places), BATCH):
            if time.monotonic() > self.until:
                raise Incomparable(
                    f"version {self.version.version} answered {start} of {len(places)} test examples in the time there "
                    f"is; `eagerly models gate {self.version.name} VERSION` gives it more"
                )
            batch = places[start : start + BATCH]
            try:
                parts.append(self._called(batch, found) if seen_as_called else self._read(batch, found, labels))
            except Incomparable:
                raise
            except Exception as problem:  # an older network, another shape, a user's own code
                raise Incomparable(
                    f"version {self.version.version} cannot answer this run's test examples "
                    f"({type(problem).__name__}: {problem})"
                ) from problem
        if self._refused:
            self.notes.append(
                f"Version {self.version.version} refused {self._refused} of {len(places)} test examples as bad input; "
                "each counts as wrong."
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _called(self, places: list[int], found: Results) -> Columns:
        predictions = self.model.predict(self.inputs(places))
        self._refused += sum(isinstance(one, Exception) for one in predictions)
        if hasattr(self.run.task.train, "graded"):
            graded = self.run.task.train.graded(self.data, places, predictions)
            return {name: np.asarray(values, np.float64) for name, values in graded.items()}
        return labelled(predictions, found.labels, [int(found.columns["target"][at]) for at in places])

    def _read(self, places: list[int], found: Results, labels: list[str]) -> Columns:
        """Lets the champion's network read a batch as the new version's data encodes it."""
        import torch

        from pipelines import results

        if labels != found.labels and labels and found.labels:
            raise Incomparable(f"version {self.version.version} has other labels, and the task offers no test_inputs()")
        if not self.notes:
            self.notes.append("The task offers no test_inputs(): the champion's network read this run's batches.")
        train, network = self.run.task.train, self.model.network.eval()
        device = next((one.device for one in network.parameters()), torch.device("cpu"))
        batch = self.data.test.to(device).batch(torch.tensor(places, device=device), None)
        with torch.no_grad():
            if hasattr(train, "scored"):
                logits_BC, label_B = train.scored(network, batch)
                own = results.of_logits(logits_BC / self.version.metrics.get("temperature", 1.0), label_B)
            else:
                own = train.examined(network, batch)[1]
        return {name: column_B.double().cpu().numpy() for name, column_B in own.items()}


def labelled(predictions: list[Any], labels: list[str], targets: list[int]) -> Columns:
    """Grades predictions that rank all labels by probability; an error counts as wrong, without any confidence."""
    place = {label: at for at, label in enumerate(labels)}
    rows = []
    for prediction, target in zip(predictions, targets, strict=True):
        ranked = [] if isinstance(prediction, Exception) else [(str(name), share) for name, share in prediction.labels]
        best, confidence = ranked[0] if ranked else ("", 0.0)
        true = dict(ranked).get(labels[target], 0.0)
        rows.append((place.get(best, len(labels)), confidence, sum(share**2 for _, share in ranked) - 2 * true + 1))
    guess_B, confidence_B, brier_B = (np.array(column) for column in zip(*rows, strict=True))
    return {"guess": guess_B, "confidence": confidence_B, "brier": brier_B}
