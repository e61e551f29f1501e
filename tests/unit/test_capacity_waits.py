"""A run that waits lets the autoscaler know of it, beside others that wait."""

from typing import Any

import pytest
import ray
from ray.autoscaler import sdk

from pipelines import capacity
from pipelines.settings import Launch


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many CPUs the autoscaler was asked for, wish by wish, while a cluster of 4 frees one a look."""
    wishes: list[int] = []
    looks = iter((0, 0, 1, 2))
    monkeypatch.setattr(capacity, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": float(next(looks))})

    def ask(bundles: list[dict[str, Any]]) -> None:
        wishes.append(len(bundles))

    monkeypatch.setattr(sdk, "request_resources", ask)
    return wishes


def test_a_run_that_waits_asks_at_every_look_for_its_workers_beside_what_is_in_use(asked: list[int]) -> None:
    said: list[str] = []
    capacity.find(Launch(workers="2", wait=True), True, said.append)
    assert asked == [6, 6, 5, 0], "another run that ends its wait takes every wish back, so each is said again"
    assert said[0] == "waiting for 2 CPUs: the cluster has 4 CPUs, 0 of them free"
    assert said[-1] == ""


def test_a_run_that_does_not_wait_asks_for_nothing(asked: list[int]) -> None:
    capacity.find(Launch(workers="2"), True, print)
    assert not asked
