"""What has failed a thousand times in a row is still tried again, after the longest pause and not after an error."""

import os

import pytest

from pipelines import registry, rollout
from pipelines.policy import Limits, Rollout
from pipelines.registry import Aim, Version
from services import conductor, watcher
from services.store import Store

FAILURES_COUNT = 1100
"""More than doublings that a float can take."""


class Enough(Exception):
    """Ends a watching that knows no end."""


def test_a_registry_that_is_away_for_days_is_asked_again_every_few_seconds(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    pauses_s: list[float] = []

    def sleep(seconds: float) -> None:
        pauses_s.append(seconds)
        if len(pauses_s) > FAILURES_COUNT:
            raise Enough

    monkeypatch.setattr(watcher.Watcher, "look", lambda self: False)
    monkeypatch.setattr(watcher.time, "sleep", sleep)
    with pytest.raises(Enough):
        watcher.watch(store, 1.0)
    assert pauses_s[0] == 2.0
    assert set(pauses_s[1:]) == {watcher.LONGEST_PAUSE_S}


def test_a_champion_and_a_candidate_that_cannot_be_fetched_for_days_leave_the_registry_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    brought: list[int] = []

    def bring(store: Store, version: Version) -> None:
        brought.append(version.version)
        raise OSError("no such host")

    def read(task: str, number: int) -> Version:
        return Version(task, number, "run", "0" * 64, "there", {}, "accuracy", number == 1)

    tried = Rollout("one", 2, 1, "shadow", 0.5, Limits(), began=0.0)
    aim = Aim(0, 1, {rollout.TAG: tried.to_json()})
    monkeypatch.setattr(watcher, "CORRUPT_S", 0.0)
    monkeypatch.setattr(conductor, "LONGEST_PAUSE_S", 0.0)
    monkeypatch.setattr(watcher, "bring", bring)
    monkeypatch.setattr(registry, "aim", lambda task: aim)
    monkeypatch.setattr(registry, "read", read)
    monkeypatch.setattr(rollout, "report", lambda *given: None)
    descriptor = store.use("parity")
    follow = watcher.Watcher(store)
    assert all(follow.look() for _ in range(FAILURES_COUNT))
    assert (brought.count(1), brought.count(2)) == (FAILURES_COUNT, FAILURES_COUNT)
    os.close(descriptor)
