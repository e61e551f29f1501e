"""The gate refuses what is worse, equal, worse on a slice or badly calibrated, and lets through what is better."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import gate, report, resampling, verdict
from pipelines.registry import Version
from pipelines.verdict import Answers, Pair, Rules, Verdict

COUNT, LABELS = 1_000, 10
RULES = Rules()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws fewer resamples, which is enough for differences as large as these."""
    monkeypatch.setattr(resampling, "ROUNDS", 2_000)


def answers(right_N: np.ndarray, target_N: np.ndarray, confidence: float = 0.85) -> Answers:
    """A model that is as sure of every answer; where it is wrong it takes the next label."""
    guess_N = np.where(right_N, target_N, (target_N + 1) % LABELS)
    brier_N = np.where(right_N, (1 - confidence) ** 2, 1 + confidence**2)
    return Answers(right_N.astype(float), guess_N, np.full(len(right_N), confidence), brier_N)


def drawn(seed: int, share: float, count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < share


def targets(count: int = COUNT) -> np.ndarray:
    return np.arange(count) % LABELS


def changed(right_N: np.ndarray, gained: int, lost: int = 0) -> np.ndarray:
    """Turns some wrong answers right and some right ones wrong."""
    after_N = right_N.copy()
    after_N[np.flatnonzero(~right_N)[:gained]] = True
    after_N[np.flatnonzero(right_N)[:lost]] = False
    return after_N


def judged(
    ours_N: np.ndarray, theirs_N: np.ndarray, primary: str = "accuracy", ours: float = 0.85, rules: Rules = RULES
) -> Verdict:
    target_N = targets(len(ours_N))
    slices = {"class": ([str(label) for label in range(LABELS)], target_N)}
    pair = Pair(primary, answers(ours_N, target_N, ours), answers(theirs_N, target_N), target_N, slices)
    return gate.decide(pair, rules, 0, "version 1")


@pytest.mark.parametrize("primary", ["accuracy", "macro_f1"])
def test_a_better_model_is_promoted(primary: str) -> None:
    theirs_N = drawn(0, 0.8)
    found = judged(changed(theirs_N, gained=60, lost=20), theirs_N, primary)
    assert found.promoted, found.reason
    assert found.reason.startswith(f"champion: {primary} 0.8")
    assert "against 0.7" in found.reason and "of version 1 on the same 1000 test examples" in found.reason
    assert found.difference is not None
    assert found.difference.estimate == pytest.approx(0.04, abs=0.005)
    assert 0 < found.difference.low < 0.04 < found.difference.high
    assert (found.gained, found.lost) == (60, 20)


@pytest.mark.parametrize("primary", ["accuracy", "macro_f1"])
def test_a_worse_model_is_refused(primary: str) -> None:
    theirs_N = drawn(0, 0.8)
    found = judged(changed(theirs_N, gained=20, lost=60), theirs_N, primary)
    assert not found.promoted
    assert found.reason.startswith("not champion") and "it is worse" in found.reason


def test_the_same_model_is_refused() -> None:
    found = judged(drawn(0, 0.8), drawn(0, 0.8))
    assert not found.promoted
    assert "no better: both say the same of every test example" in found.reason


def test_an_equal_model_of_another_seed_is_refused() -> None:
    theirs_N = drawn(0, 0.8)
    found = judged(changed(theirs_N, gained=40, lost=36), theirs_N)
    assert not found.promoted
    assert "no better: the interval must lie above 0" in found.reason


def test_a_model_that_is_better_and_worse_on_a_class_is_refused_and_the_class_named() -> None:
    theirs_N = drawn(0, 0.8)
    ours_N = changed(theirs_N, gained=150)
    ours_N[np.flatnonzero((targets() == 3) & theirs_N)[:40]] = False
    found = judged(ours_N, theirs_N)
    assert found.difference is not None and found.difference.low > 0
    assert not found.promoted
    assert "it falls on class '3' (100 examples)" in found.reason
    assert [one.name for one in found.slices if one.state == "fell"] == ["3"]


def test_a_slice_that_is_lower_by_chance_does_not_refuse_a_better_model() -> None:
    theirs_N = drawn(0, 0.8)
    ours_N = np.where(targets() == 3, theirs_N, changed(theirs_N, gained=60))
    ours_N[np.flatnonzero((targets() == 3) & theirs_N)[:4]] = False
    found = judged(ours_N, theirs_N)
    lower = next(one for one in found.slices if one.name == "3")
    assert lower.difference.estimate < 0 and lower.state == "open"
    assert found.promoted, found.reason
    assert "too small to rule out a fall of 0.02" in found.reason


def test_a_fall_within_the_slice_margin_is_let_through() -> None:
    theirs_N = drawn(0, 0.8)
    ours_N = changed(theirs_N, gained=150)
    ours_N[np.flatnonzero((targets() == 3) & theirs_N)[:40]] = False
    assert judged(ours_N, theirs_N, rules=Rules(slice_margin=0.5)).promoted


def test_a_model_ahead_by_less_than_the_margin_is_refused() -> None:
    theirs_N = drawn(0, 0.8)
    found = judged(changed(theirs_N, gained=60), theirs_N, rules=Rules(margin=0.1))
    assert not found.promoted and "the interval must lie above 0.1" in found.reason


def test_a_better_model_that_is_much_too_sure_is_refused() -> None:
    theirs_N = drawn(0, 0.8)
    found = judged(changed(theirs_N, gained=60), theirs_N, ours=0.999)
    assert not found.promoted
    assert "calibration is worse: expected calibration error +0.0" in found.reason
    assert judged(changed(theirs_N, gained=60), theirs_N, ours=0.86).promoted


def test_a_better_model_whose_probabilities_are_worth_less_is_refused() -> None:
    theirs_N, target_N = drawn(0, 0.8), targets()
    ours = answers(changed(theirs_N, gained=60), target_N)
    assert ours.brier is not None
    pair = Pair("accuracy", replace(ours, brier=ours.brier + 0.2), answers(theirs_N, target_N), target_N)
    found = gate.decide(pair, RULES, 0)
    assert not found.promoted and "calibration is worse: Brier score +0." in found.reason


def test_confidence_that_is_no_number_is_worse() -> None:
    theirs_N = drawn(0, 0.8)
    found = judged(changed(theirs_N, gained=60), theirs_N, ours=float("nan"))
    assert not found.promoted and "calibration is worse" in found.reason


def test_numbers_that_are_not_finite_are_null_in_json() -> None:
    told = json.loads(json.dumps(Verdict(False, "not champion: it cannot be loaded").told(), allow_nan=False))
    assert (told["ours"], told["theirs"], told["difference"]) == (None, None, None)
    first = verdict.by_metric("accuracy", 0.5, -math.inf, 0.0, "version 1").told()
    assert (first["ours"], first["theirs"]) == (0.5, None)
    theirs_N = drawn(0, 0.8)
    (brier, error) = judged(changed(theirs_N, gained=60), theirs_N, ours=math.nan).told()["calibration"]
    assert brier["ours"] is None and brier["theirs"] > 0
    assert error["difference"]["estimate"] is None


def test_a_metric_that_is_no_number_has_a_verdict_and_a_page(tmp_path: Path) -> None:
    ours_N = np.random.default_rng(0).random(60)
    theirs_N = np.where(np.arange(60) == 3, np.nan, ours_N)
    slices = {"activity": (["few", "many"], np.arange(60) % 2)}
    pair = Pair("ndcg_at_10", Answers(ours_N), Answers(theirs_N), None, slices)
    found = gate.decide(pair, RULES, 0)
    assert not found.promoted
    assert json.loads(json.dumps(found.told(), allow_nan=False))["difference"]["low"] is None
    new, old = (Version("recommender", number, "", "", "", {}, "ndcg_at_10", False) for number in (2, 1))
    report.write(tmp_path / "report.html", new, old, found, pair, RULES, report.Shown(np.arange(60), [], None))
    assert "It is no number." in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("gained", "promoted"), [(5, False), (6, True)])
def test_a_handful_of_changes_is_not_told_from_chance(gained: int, promoted: bool) -> None:
    theirs_N = np.arange(100) % 2 == 0
    found = judged(changed(theirs_N, gained), theirs_N, ours=0.5)
    assert found.promoted is promoted, found.reason
    assert promoted or "5 test examples changed, and it takes 6" in found.reason


def test_a_metric_per_user_is_judged_by_its_mean_and_its_slices() -> None:
    generator = np.random.default_rng(0)
    theirs_N = generator.random(600)
    group_N = np.arange(600) % 3
    ours_N = theirs_N + generator.normal(0.05, 0.1, 600)
    slices = {"activity": (["few", "some", "many"], group_N)}
    found = gate.decide(Pair("ndcg_at_10", Answers(ours_N), Answers(theirs_N), None, slices), RULES, 0)
    assert found.promoted and found.calibration == ()
    fallen = gate.decide(
        Pair("ndcg_at_10", Answers(ours_N + 0.1 - 0.3 * (group_N == 2)), Answers(theirs_N), None, slices), RULES, 0
    )
    assert "it falls on activity 'many' (200 examples)" in fallen.reason


def test_the_interval_is_that_of_a_plain_paired_bootstrap() -> None:
    theirs_N = drawn(0, 0.8, 300)
    ours_N = changed(theirs_N, gained=25, lost=10)
    found = judged(ours_N, theirs_N)
    generator, change_N = np.random.default_rng(1), ours_N.astype(float) - theirs_N
    plain = [change_N[generator.integers(0, 300, 300)].mean() for _ in range(10_000)]
    assert found.difference is not None
    assert (found.difference.low, found.difference.high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.005)


def test_macro_f1_is_the_mean_over_labels() -> None:
    target_N, guess_N = targets(50), np.random.default_rng(0).integers(0, LABELS, 50)
    own = Answers((target_N == guess_N).astype(float), guess_N)
    hits = [int(((target_N == label) & (guess_N == label)).sum()) for label in range(LABELS)]
    both = [int((target_N == label).sum() + (guess_N == label).sum()) for label in range(LABELS)]
    expected = sum(2 * hit / of for hit, of in zip(hits, both, strict=True)) / LABELS
    assert gate.metric(Pair("macro_f1", own, own, target_N), own) == pytest.approx(expected)


def test_the_same_seed_gives_the_same_verdict_and_another_nearly() -> None:
    theirs_N = drawn(0, 0.8)
    ours_N, target_N = changed(theirs_N, 30, 10), targets()
    pair = Pair("accuracy", answers(ours_N, target_N), answers(theirs_N, target_N), target_N)
    first, again, other = (gate.decide(pair, RULES, seed) for seed in (1, 1, 2))
    assert first.draws is not None and again.draws is not None and other.draws is not None
    assert (first.draws == again.draws).all() and first.reason == again.reason
    assert (first.draws != other.draws).any()
    assert first.difference is not None and other.difference is not None
    assert first.difference.low == pytest.approx(other.difference.low, abs=0.005)


def test_a_large_test_split_is_resampled_less_often() -> None:
    assert resampling.rounds(1_000) == resampling.ROUNDS
    assert resampling.rounds(10_000_000) == 1_000


@pytest.mark.parametrize(("ours", "promoted"), [(0.8, False), (0.79, False), (0.81, True), (float("nan"), False)])
def test_by_the_metric_alone_only_a_higher_one_is_promoted(ours: float, promoted: bool) -> None:
    found = verdict.by_metric("accuracy", ours, 0.8, 0.0, "version 1", "the task gives no example's own result")
    assert found.promoted is promoted
    assert "by the metric alone: the task gives no example's own result" in found.reason
