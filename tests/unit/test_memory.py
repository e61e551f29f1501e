"""While a server runs no full collection comes in the midst of a burst, and what calls leave is found all the same."""

import asyncio
import gc
import time
import weakref

import pytest

from services import memory
from services.memory import NEVER, Memory


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def full_collections() -> int:
    return gc.get_stats()[2]["collections"]


def full_collections_of_a_burst() -> int:
    """Allocates what ten thousand calls in flight hold."""
    before = full_collections()
    calls = [[{} for _ in range(30)] for _ in range(10_000)]
    assert len(calls) == 10_000
    return full_collections() - before


def test_a_burst_of_calls_costs_no_full_collection_until_the_server_has_ended():
    async def served() -> int:
        memory = Memory()
        memory.start()
        gc.collect()  # from now on the collector has little in sight to compare a burst with
        during = full_collections_of_a_burst()
        await memory.close()
        return during

    thresholds = gc.get_threshold()
    assert asyncio.run(served()) == 0
    assert gc.get_threshold() == thresholds
    gc.freeze()  # what other tests left is more than a burst
    try:
        gc.collect()
        assert full_collections_of_a_burst() > 0
    finally:
        gc.unfreeze()


def test_servers_of_one_process_leave_the_collector_as_it_was_in_whatever_order_they_end():
    async def ended() -> list[int]:
        first, second = Memory(), Memory()
        first.start()
        second.start()
        await first.close()
        between = gc.get_threshold()[2]
        await second.close()
        return [between, gc.get_threshold()[2]]

    usual = gc.get_threshold()[2]
    try:
        assert asyncio.run(ended()) == [NEVER, usual]
    finally:
        gc.unfreeze()


def test_what_young_collections_leave_is_found_in_time():
    async def found() -> bool:
        memory = Memory(look_s=0.01, collect_s=0.05)
        memory.start()
        knot = Knot()
        gc.collect(1)
        gc.collect(1)  # it is old now
        seen = weakref.ref(knot)
        del knot
        until = time.monotonic() + 10
        while seen() is not None and time.monotonic() < until:
            await asyncio.sleep(0.01)
        await memory.close()
        return seen() is None

    assert asyncio.run(found())


def test_a_look_that_fails_is_told_and_the_next_comes_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    looks, real = [], memory.resident_bytes

    def flaky() -> int:
        looks.append(1)
        if len(looks) == 3:
            raise OSError(24, "Too many open files")
        return real()

    async def looked() -> None:
        watched = Memory(look_s=0.01)
        watched.start()
        await asyncio.sleep(0.2)
        await watched.close()

    monkeypatch.setattr(memory, "resident_bytes", flaky)
    try:
        asyncio.run(looked())
    finally:
        gc.unfreeze()
    assert len(looks) > 5
    assert caplog.text.count("Too many open files") == 1
