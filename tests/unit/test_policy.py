"""A candidate is rolled back when its figures leave no doubt, and not for noise."""

import json
import math
import random
from typing import Any, Literal

import pytest

from pipelines.policy import Limits, Role, Rollout, Tally, bounds, over

LIMITS = Limits(max_errors=0.01, max_slower=1.5, max_disagreement=0.05, least_calls=200)


def rollout(mode: Literal["shadow", "canary"] = "shadow") -> Rollout:
    return Rollout("id", 7, 6, mode, 0.1, LIMITS, began=0.0)


def role(calls: int, errors: int = 0, seconds: float = 0.01, jitter: float = 0.0) -> Role:
    made = Role(calls, errors)
    for number in range(calls - errors):
        made.waits.add(seconds * (1 + jitter * (number % 3 - 1)))
    return made


def count(tally: Tally, draw: random.Random, failed: bool, slower: float) -> None:
    """Counts a call of each."""
    tally.champion.calls += 1
    tally.candidate.calls += 1
    tally.candidate.errors += failed
    tally.champion.waits.add(draw.lognormvariate(-4, 0.8))
    tally.candidate.waits.add(slower * draw.lognormvariate(-4, 0.8))


def test_a_candidate_that_does_as_well_as_the_champion_is_left_alone():
    tally = Tally(role(4000, 20), role(1000, 5), compared=1000, agreed=990)
    assert over(rollout(), tally) == ""


def test_a_candidate_that_fails_is_stopped_from_a_tenth_of_the_least_calls_on():
    assert over(rollout(), Tally(role(400), role(19, 19))) == ""
    reason = over(rollout(), Tally(role(400), role(20, 20)))
    assert reason == "errors: 20 of 20 calls failed, against 0 of 400 of version 6; allowed are 1.0% more"


def test_errors_that_the_champion_has_too_are_not_held_against_the_candidate():
    assert over(rollout(), Tally(role(1000, 500), role(1000, 500))) == ""
    assert over(rollout(), Tally(role(1000, 500), role(1000, 700))).startswith("errors: ")


def test_a_slower_candidate_is_stopped_from_the_least_calls_on():
    assert over(rollout("canary"), Tally(role(199), role(199, seconds=0.1))) == ""
    reason = over(rollout("canary"), Tally(role(200), role(200, seconds=0.1)))
    assert reason == "latency: 100 ms a call against 10 ms of version 6; allowed is 1.5 times as much"
    assert over(rollout("canary"), Tally(role(2000), role(2000, seconds=0.0149))) == ""


def test_a_shadow_is_judged_by_its_work_and_a_canary_by_what_callers_wait():
    quick, slow = role(1000).waits, role(1000, seconds=0.025).waits
    works = Tally(Role(1000, 0, quick, quick), Role(1000, 0, quick, slow))
    waits = Tally(Role(1000, 0, quick, quick), Role(1000, 0, slow, quick))
    canary = rollout("canary")
    assert over(rollout(), waits) == "", "it competes with calls for the processor"
    assert over(rollout(), works) == (
        "latency: 25 ms of processor time a call against 10 ms of version 6; allowed is 1.5 times as much"
    )
    assert over(canary, works) == ""
    assert over(canary, waits).startswith("latency: 25 ms a call against 10 ms")


def test_a_few_calls_that_took_very_long_are_no_slower_model():
    mine = role(1000, jitter=0.5)
    for _ in range(5):
        mine.waits.add(30.0)
    assert over(rollout("canary"), Tally(role(1000, jitter=0.5), mine)) == ""


def test_a_candidate_that_says_something_else_is_stopped_from_the_least_calls_on():
    assert over(rollout(), Tally(role(199), role(199), compared=199, agreed=0)) == ""
    assert over(rollout(), Tally(role(200), role(200), compared=200, agreed=185)) == "", "7.5 % may be chance"
    reason = over(rollout(), Tally(role(200), role(200), compared=200, agreed=150))
    assert reason == "disagreement: 25.0% of the answers to 200 calls differ from version 6's; allowed are 5.0%"


@pytest.mark.parametrize("what", ["errors", "disagreement", "latency"])
def test_a_candidate_exactly_at_its_limit_survives_thousands_of_looks(what: str):
    stopped = 0
    for seed in range(60):
        draw = random.Random(seed)
        tally = Tally()
        for _ in range(3000):
            count(tally, draw, what == "errors" and draw.random() < 0.01, 1.5 if what == "latency" else 1.0)
            tally.compared += 1
            tally.agreed += not (what == "disagreement" and draw.random() < 0.05)
            if over(rollout("canary" if what == "latency" else "shadow"), tally):
                stopped += 1
                break
    assert stopped <= 1


@pytest.mark.parametrize("what", ["errors", "disagreement", "latency"])
def test_a_candidate_far_over_its_limit_is_stopped_soon(what: str):
    draw = random.Random(1)
    tally = Tally()
    for calls in range(1, 2001):
        count(tally, draw, what == "errors" and draw.random() < 0.2, 3.0 if what == "latency" else 1.0)
        tally.compared += 1
        tally.agreed += not (what == "disagreement" and draw.random() < 0.3)
        if over(rollout("canary" if what == "latency" else "shadow"), tally):
            assert calls <= 300
            return
    pytest.fail("never stopped")


def test_figures_of_two_replicas_add_up_and_survive_being_written():
    from dataclasses import asdict

    one = Tally(role(10, 1), role(20, 2), 20, 19.5, 3)
    both = one + Tally.of(asdict(one))
    assert (both.champion.calls, both.candidate.errors, both.compared, both.agreed, both.dropped) == (20, 4, 40, 39, 6)
    assert both.candidate.waits.typical_s == pytest.approx(0.01)


@pytest.mark.parametrize("facts", [{}, {"champion": 1, "candidate": 2}, {"champion": {"calls": "x"}, "candidate": {}}])
def test_a_tally_that_is_none_is_refused(facts: dict[str, object]):
    with pytest.raises(ValueError, match="this is no tally"):
        Tally.of(facts)


def test_a_rollout_survives_being_written_and_nonsense_is_refused():
    made = rollout().ended("rolled back", "errors: too many")
    assert Rollout.from_json(made.to_json()) == made
    for text in ("", "[]", "{}", made.to_json().replace("0.1", "7"), made.to_json().replace("rolled back", "gone")):
        with pytest.raises(ValueError, match="is no rollout"):
            Rollout.from_json(text)


def test_bounds_hold_the_share_and_are_wide_for_few_calls():
    assert bounds(0, 0) == (0.0, 1.0)
    for count, calls in ((0, 10), (5, 10), (10, 10), (50, 1000)):
        low, high = bounds(count, calls)
        assert 0 <= low <= count / calls <= high <= 1


def changed(limits: dict[str, Any], **values: Any) -> str:
    facts = json.loads(rollout().to_json())
    facts["limits"] |= limits
    return json.dumps(facts | values)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_errors": "1%"},
        {"max_errors": 1.5},
        {"max_errors": -0.1},
        {"max_errors": math.nan},
        {"max_slower": None},
        {"max_slower": 0},
        {"max_slower": math.inf},
        {"max_slower": 10**400},
        {"max_disagreement": [0.1]},
        {"max_disagreement": True},
        {"least_calls": 0},
        {"least_calls": 2.5},
        {"least_calls": "200"},
        {"most_calls": 1},
    ],
)
def test_limits_that_cannot_be_judged_by_are_no_rollout(limits: dict[str, Any]):
    with pytest.raises(ValueError, match="is no rollout: "):
        Rollout.from_json(changed(limits))


@pytest.mark.parametrize(
    "values",
    [
        {"id": 5},
        {"id": ""},
        {"version": True},
        {"champion": None},
        {"share": "half"},
        {"share": 0},
        {"share": math.nan},
        {"mode": "blue"},
        {"state": ["running"]},
        {"began": "now"},
        {"reason": None},
    ],
)
def test_values_of_another_kind_are_no_rollout(values: dict[str, Any]):
    with pytest.raises(ValueError, match="is no rollout: "):
        Rollout.from_json(changed({}, **values))


def test_limits_at_their_ends_are_read_as_they_were_written():
    read = Rollout.from_json(changed({"max_errors": 0, "max_slower": 1, "max_disagreement": 1, "least_calls": 1}))
    assert read.limits == Limits(0, 1, 1, 1)
