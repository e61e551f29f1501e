"""Asks the champion the test examples of a run, so that the gate can hold its answers against the new version's.

The champion answers as a caller would be answered where the task's data.py offers `test_inputs`, with its own
tokenizer and labels; else its network reads the run's batches. Shapes: B examples of a batch, N of the test split.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import answers, artifact, gate, outages, promotion, registry, report, results, runs, sealed, uploads
from pipelines import verdict as verdicts
from pipelines.answers import Incomparable
from pipelines.examples import Data
from pipelines.registry import Version
from pipelines.results import Results
from pipelines.runs import Run
from pipelines.settings import Launch
from pipelines.verdict import Answers, Pair, Rules, Verdict

CLOSE = 1e-6
"""How near to the metric that a run gave must be what its examples add up to."""
Columns = dict[str, NDArray[Any]]


def judge(run_dir: Path, new: Version, old: Version, page: Path, patience_s: float) -> Verdict:
    """Judges a run's new version against a champion; what cannot be compared is refused, saying why.

    Of `run_dir` run.json and examples.safetensors are read; report.html and verdict.json go to the folder `page`.
    An outage of the store is no verdict: what `outages.passes` says may pass is raised.
    """
    try:
        verdict = _judge(run_dir, new, old, page, time.monotonic() + patience_s)
    except Incomparable as problem:
        verdict = Verdict(False, f"not champion: {problem}")
    about = {"name": new.name, "version": new.version, "champion": old.version, **verdict.told()}
    (page / "verdict.json").write_text(json.dumps(about, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return verdict


def _judge(run_dir: Path, new: Version, old: Version, page: Path, until: float) -> Verdict:
    if new.digest == old.digest:
        raise Incomparable(f"no better: it is the same model as version {old.version}")
    launch = runs.launched(run_dir)
    rules = Rules(launch.margin, launch.slice_margin, launch.confidence)
    found = _read(run_dir)
    why = _wanting(found, new)
    if found is None or why:
        figures = (new.metrics[new.primary], old.metrics.get(new.primary, float("-inf")))
        return verdicts.by_metric(new.primary, *figures, rules.margin, f"version {old.version}", why)
    run = runs.reopen(run_dir)
    data = _data(run, found)
    with tempfile.TemporaryDirectory() as folder:
        model, labels = _champion(run, old, Path(folder) / "champion", launch)
    unseen_N, kinship = _unseen(run, found, old)
    known_N, lacking = answers.comparable(found, labels, old.version)
    kept_N = unseen_N & known_N
    if not kept_N.any():
        raise Incomparable(f"{kinship} {' '.join(lacking)}".strip())
    source = answers.Source(run, data, model, old, until)
    places_N = np.flatnonzero(kept_N)
    columns = source.ask(places_N.tolist(), found, labels)
    notes = (kinship, *lacking, *source.notes)
    pair = _pair(found, columns, kept_N, new.primary)
    seed = int(sealed.hash_text(new.digest + old.digest)[:16], 16)
    verdict = gate.decide(pair, rules, seed, f"version {old.version}", notes)
    if not kept_N.all():
        left = f"{len(kept_N) - len(places_N)} of {len(kept_N)} test examples are left out"
        why = "learned from them" if known_N.all() else "learned from them or does not know their labels"
        verdict = replace(verdict, reason=f"{verdict.reason}; {left}, as version {old.version} {why}")
    inputs = source.inputs if hasattr(run.task.data, "test_inputs") else None
    report.write(page / "report.html", new, old, verdict, pair, rules, report.Shown(places_N, found.labels, inputs))
    return verdict


def _read(run_dir: Path) -> Results | None:
    try:
        return results.read(run_dir)
    except ValueError as problem:
        raise Incomparable(str(problem)) from problem


def _wanting(found: Results | None, new: Version) -> str:
    """Says why the examples' results do not make up the primary metric; empty where they do."""
    if found is None:
        return "the task gives no example's own result"
    scores_N = answers.scores(found.columns, new.primary)
    if scores_N is None:
        return f"{new.primary} is not among each example's results"
    own = Answers(scores_N, found.columns.get("guess"))
    value = gate.metric(Pair(new.primary, own, own, found.columns.get("target")), own)
    if not abs(value - new.metrics[new.primary]) <= CLOSE:
        return f"the examples' results make up {value:.6f} and not the {new.primary} that the task gives"
    return ""


def _data(run: Run, found: Results) -> Data:
    try:
        data: Data = run.task.data.load(uploads.brought(run.config))
    except Exception as problem:  # whatever a user's own task raises
        raise Incomparable(f"the run's data cannot be read here ({problem})") from problem
    if data.digest != found.data_digest or len(data.test) != len(found):
        raise Incomparable(f"the data {data.name!r} has changed since the run (digest {data.digest[:12]})")
    return data


def _champion(run: Run, old: Version, folder: Path, launch: Launch) -> tuple[Any, list[str]]:
    """Downloads, verifies and loads the champion; returns it and the names of its labels."""
    try:
        registry.download(old, folder)
    except Exception as problem:
        if outages.passes(problem):
            raise
        raise _not_loaded(old, problem) from problem
    try:
        digest = artifact.verify(folder)
        if digest != old.digest:
            raise Incomparable(f"the artifact of version {old.version} is not the one that was registered")
        if artifact.task_of(folder) != run.task.name:
            raise Incomparable(f"version {old.version} is a model of {artifact.task_of(folder)!r}")
        labels = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("labels", [])
        model = run.task.model.Model.load(folder)
        return (model.to("cuda") if launch.gpu and _has_gpu() else model), [str(label) for label in labels]
    except Incomparable:
        raise
    except Exception as problem:  # damaged, or of another version of the task's code
        raise _not_loaded(old, problem) from problem


def _not_loaded(old: Version, problem: Exception) -> Incomparable:
    return Incomparable(f"version {old.version} cannot be loaded ({type(problem).__name__}: {problem})")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _pair(found: Results, theirs: Columns, kept_N: NDArray[np.bool_], primary: str) -> Pair:
    ours = {name: column_N[kept_N] for name, column_N in found.columns.items()}
    kinds = {kind: (names, code_N[kept_N]) for kind, (names, code_N) in found.slices.items()}
    target_N = ours.get("target")
    if target_N is not None:
        names = found.labels or [str(at) for at in range(int(target_N.max()) + 1)]
        kinds = {"class": (names, target_N)} | kinds
        theirs = {**theirs, "target": target_N}
    return Pair(primary, _answers(ours, primary), _answers(theirs, primary), target_N, kinds)


def _answers(columns: Columns, primary: str) -> Answers:
    scores_N = answers.scores(columns, primary)
    assert scores_N is not None, "both models' results hold the primary metric"
    return Answers(scores_N, columns.get("guess"), columns.get("confidence"), columns.get("brier"))


def _unseen(run: Run, found: Results, old: Version) -> tuple[NDArray[np.bool_], str]:
    """Marks the test examples that the champion did not learn from [N], as far as is known, and says what is known."""
    everything_N, facts = np.ones(len(found), np.bool_), registry.facts(old.run_id)
    same_data, otherwise = facts.get("data_digest") == found.data_digest, _otherwise(run, facts)
    if same_data and facts.get("seed") == str(run.config.seed) and not otherwise:
        return everything_N, f"Version {old.version} learned from the same training split as the new version."
    what = f"another split (seed {facts.get('seed')})" if same_data else "other data"
    what = f"{what}, read with {otherwise}" if otherwise else what
    seen_M = _learned_from(old)
    if found.prints is None or seen_M is None:
        return everything_N, (
            f"Version {old.version} learned from {what}, and which examples is not known: some of these test examples "
            "may be among them, which favours it."
        )
    unseen_N = np.isin(found.prints, seen_M, invert=True)
    left = f"{int((~unseen_N).sum())} of {len(found)} test examples were among what it learned from and are left out."
    if otherwise:
        left = f"{left[:-1]}; more may have been, read otherwise and so not known again, which favours it."
    return unseen_N, f"Version {old.version} learned from {what}: {left}"


def _otherwise(run: Run, facts: dict[str, str]) -> str:
    """Names the flags that change what fingerprints are of, where the champion's run had others; empty for none."""
    flags = [flag for flag in getattr(run.task.data, "READ_BY", ()) if flag in facts]
    pairs = [(flag, facts[flag], str(getattr(run.config, flag))) for flag in flags]
    return ", ".join(f"--{flag.replace('_', '-')} {old} and not {new}" for flag, old, new in pairs if old != new)


def _learned_from(old: Version) -> NDArray[np.int64] | None:
    """Reads the fingerprints that the champion's run left in MLflow; None where there are none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            theirs = results.read(registry.attached(old.run_id, promotion.FOLDER, Path(folder)))
        except ValueError:
            return None
    return theirs.seen if theirs else None
