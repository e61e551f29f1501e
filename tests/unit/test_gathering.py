"""Calls that are about to come are waited for where that answers more of them, and only there."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Iterable

import pytest

from services import gathering
from services.batching import Batcher
from services.gathering import Gathering

FEW = 8
BACK_S = 0.001
"""From an answer to the same caller's next call."""


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def play(
    monkeypatch: pytest.MonkeyPatch,
    cost: Callable[[int], float],
    callers: int,
    batches: int = 300,
    back_s: float = BACK_S,
) -> list[int]:
    """Has callers call again and again; returns the sizes of the batches once both ways have been tried."""
    clock, own = Clock(), Gathering()
    monkeypatch.setattr(gathering, "time", clock)
    arrivals = [clock.now + number * BACK_S for number in range(callers)]
    sizes = []
    for _ in range(batches):
        clock.now = max(clock.now, arrivals[0])
        own.begins()
        size = 0
        while arrivals:
            left_s = max(0.0, arrivals[0] - clock.now)
            if left_s > own.patience_s(size, [float("inf")]):
                clock.now += own.patience_s(size, [float("inf")])
                break
            clock.now += left_s
            heapq.heappop(arrivals)
            size += 1
        seconds = cost(size)
        clock.now += seconds
        own.computed(size, size, seconds)
        for number in range(size):
            heapq.heappush(arrivals, clock.now + back_s + number * back_s / 70)
        sizes.append(size)
    return sizes[batches // 2 :]


def test_callers_are_computed_together_where_that_takes_less_time_each(monkeypatch: pytest.MonkeyPatch):
    sizes = play(monkeypatch, lambda size: 0.01 + 0.002 * size, FEW)
    assert sizes.count(FEW) > 0.8 * len(sizes)


def test_nobody_is_waited_for_where_that_saves_nothing(monkeypatch: pytest.MonkeyPatch):
    sizes = play(monkeypatch, lambda size: 0.005 * size, FEW)
    assert sizes.count(FEW) < 0.2 * len(sizes)


def test_nobody_is_waited_for_where_the_wait_takes_more_than_it_saves(monkeypatch: pytest.MonkeyPatch):
    sizes = play(monkeypatch, lambda size: 0.0025 + 0.005 * size, FEW, back_s=0.0033)
    assert sizes.count(FEW) < 0.2 * len(sizes)


def test_a_hiccup_of_the_machine_does_not_end_the_waiting(monkeypatch: pytest.MonkeyPatch):
    costs = (2.5 if number == 155 else 0.0 for number in itertools.count())
    sizes = play(monkeypatch, lambda size: 0.01 + 0.002 * size + next(costs), FEW)
    assert sizes.count(FEW) > 0.8 * len(sizes)


def test_a_lone_caller_hardly_ever_waits(monkeypatch: pytest.MonkeyPatch):
    waits = []
    asked = Gathering.patience_s

    def patience_s(own: Gathering, call_count: int, deadlines: Iterable[float]) -> float:
        waits.append(asked(own, call_count, deadlines))
        return waits[-1]

    monkeypatch.setattr(Gathering, "patience_s", patience_s)
    play(monkeypatch, lambda size: 0.02, 1)
    assert sum(wait > 0 for wait in waits) < 0.1 * len(waits)


def test_callers_who_become_few_are_no_longer_waited_for(monkeypatch: pytest.MonkeyPatch):
    clock, own = Clock(), Gathering()
    monkeypatch.setattr(gathering, "time", clock)
    for size, seconds in ((FEW, 0.02), (1, 0.02)):
        for _ in range(300):
            own.begins()
            clock.now += own.patience_s(size, [float("inf")]) + seconds
            own.computed(size, size, seconds)
    own.begins()
    assert own.patience_s(1, [float("inf")]) == 0


def test_a_caller_in_a_hurry_is_not_made_to_wait(monkeypatch: pytest.MonkeyPatch):
    clock, own = Clock(), Gathering()
    monkeypatch.setattr(gathering, "time", clock)
    for _ in range(gathering.RUN * gathering.TRIES):  # the next batch tries to wait
        own.begins()
        clock.now += 0.02
        own.computed(1, 1, 0.02)
    own.begins()
    assert own.patience_s(1, [float("inf")]) > 0
    assert own.patience_s(1, [clock.now + 0.03]) == 0


def test_the_models_thread_waits_for_callers_who_are_about_to_come():
    sizes: list[int] = []

    def predict(inputs: list[int]) -> list[int]:
        time.sleep(0.02 + 0.001 * len(inputs))
        sizes.append(len(inputs))
        return inputs

    async def call(batcher: Batcher, number: int) -> None:
        while len(sizes) < 2 * gathering.RUN * gathering.TRIES:
            await asyncio.sleep(BACK_S * (1 + number / FEW))
            assert await batcher.submit([1]) == [1]

    async def scenario() -> None:
        batcher = Batcher(predict, name="test")
        await asyncio.gather(*(call(batcher, number) for number in range(FEW)))
        await batcher.close()

    asyncio.run(scenario())
    assert sizes.count(FEW) > gathering.RUN * gathering.TRIES / 4
