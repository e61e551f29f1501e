"""The ledger reports a call that was lost, failed or answered by two models, and plans every event from its seed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from registries import eventually

from benchmarks import callers
from benchmarks.book import Call, Verdict, judge, longest_gap_s, read
from benchmarks.ledger import Counts, losses, plan

DIGESTS = {"1": "a" * 64, "2": "b" * 64}
ANSWER = {"code": "OK", "version": "1", "digest": DIGESTS["1"], "labels": ["v1 0", "v1 7"]}


def book(folder: Path, *entries: dict[str, Any]) -> list[Call]:
    """What a book with these lines says."""
    place = folder / "book.jsonl"
    place.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return read([place])


def lost(folder: Path, outcome: dict[str, Any] | None, kind: str = "shipped") -> list[str]:
    """What is lost when one of two calls ends like this; None for not at all."""
    entries = [{"id": "good", "start": 1.0}, {"id": "odd", "start": 1.0}, {"id": "good", "end": 1.5, **ANSWER}]
    ends = [{"id": "odd", "end": 2.0, **outcome}] if outcome else []
    return losses({kind: judge(book(folder, *entries, *ends), DIGESTS)})


def test_answered_calls_are_no_loss(tmp_path: Path):
    assert lost(tmp_path, ANSWER) == []


def test_a_call_without_an_outcome_is_lost_whoever_made_it(tmp_path: Path):
    assert lost(tmp_path, None) == ["1 shipped calls have no outcome, odd for one"]
    assert lost(tmp_path, None, "bare") == ["1 bare calls have no outcome, odd for one"]


def test_a_failed_call_is_lost_only_where_it_was_to_be_retried(tmp_path: Path):
    failure = {"code": "UNAVAILABLE", "message": "Socket closed"}
    assert lost(tmp_path, failure) == ["1 calls failed in spite of retries: {'UNAVAILABLE': 1}"]
    assert lost(tmp_path, failure, "bare") == []


@pytest.mark.parametrize(
    "other", [{"labels": ["v1 0", "v2 7"]}, {"version": "2"}, {"digest": DIGESTS["2"]}, {"version": "3"}]
)
def test_a_reply_of_which_a_part_is_another_models_is_seen(tmp_path: Path, other: dict[str, Any]):
    (problem,) = lost(tmp_path, {**ANSWER, **other}, "bare")
    assert problem.startswith("1 bare replies mix versions: odd")


def test_callers_who_were_never_answered_prove_nothing():
    assert losses({"shipped": Verdict()}) == ["no shipped call was answered"]


@pytest.mark.parametrize(
    "entries",
    [
        [{"id": "one", "end": 1.0, "code": "OK"}],
        [{"id": "one", "start": 1.0}, {"id": "one", "start": 2.0}],
        [{"id": "one", "start": 1.0}, {"id": "one", "end": 2.0, "code": "OK"}, {"id": "one", "end": 3.0, "code": "OK"}],
    ],
)
def test_a_book_that_does_not_hold_together_is_refused(tmp_path: Path, entries: list[dict[str, Any]]):
    with pytest.raises(ValueError, match=r"book\.jsonl does not hold together"):
        book(tmp_path, *entries)


def test_the_longest_gap_is_between_answers_and_touches_the_event():
    ends = [(1.0, "OK"), (2.0, "OK"), (3.0, "UNAVAILABLE"), (4.5, "OK"), (9.0, "OK")]
    calls = [Call(str(end), end - 0.1, end, code) for end, code in ends]
    assert longest_gap_s(calls, 2.2, 4.0) == 2.5
    assert longest_gap_s(calls, 1.2, 1.4) == 1.0
    assert longest_gap_s(calls, 20.0, 21.0) == float("inf")


def test_a_plan_has_every_event_and_depends_on_its_seed_alone():
    counts = Counts(kills=20, updates=5, swaps=5, outages=3, scalings=3)
    drawn = plan(counts, 7)
    assert Counter(name for event in drawn for name in event if name.isalpha()) == {
        "kill": 20,
        "update": 5,
        "swap": 5,
        "outage": 3,
        "scale": 3,
    }
    assert plan(counts, 7) == drawn != plan(counts, 8)


def test_a_plan_updates_one_two_and_three_replicas():
    size, updated = "2", set[str]()
    for event in plan(Counts(), 0):
        size = event[1] if event[0] == "scale" else size
        updated |= {size} if event == ("update",) else set()
    assert updated == {"1", "2", "3"}


def test_callers_write_down_what_becomes_of_calls_that_nobody_answers(tmp_path: Path):
    with callers.calling("127.0.0.1:1", tmp_path, {"bare": 1}) as books:
        assert eventually(lambda: books[0].exists() and '"end"' in books[0].read_text())
    verdict = judge(read(books), DIGESTS)
    assert (verdict.answered, verdict.unanswered) == (0, [])
    assert set(verdict.failed) == {"UNAVAILABLE"}
