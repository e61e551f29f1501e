"""Models that hang are left behind, and keep no thread that others need."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import endpoints
import pytest

from services import slots, threads
from services.models import Loaded

FEW = 2
"""Threads that the event loop lends, of which Ray's has few on a small machine."""


def version(number: int) -> Loaded:
    return replace(endpoints.loaded("sentiment", endpoints.Gate()), version=number)


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[endpoints.Endpoint]:
    monkeypatch.setattr(slots, "WARM_UP_S", 0.4)
    monkeypatch.setattr(slots, "RETIRE_S", 0.1)
    with ThreadPoolExecutor(FEW) as few, endpoints.serving([version(1)], tmp_path) as running:
        running.loop.set_default_executor(few)
        yield running


def assert_a_thread_is_free(endpoint: endpoints.Endpoint) -> None:
    assert endpoint.run(asyncio.to_thread(int), timeout_s=1) == 0


def test_models_that_hang_in_their_warm_up_keep_no_thread_that_others_need(endpoint: endpoints.Endpoint) -> None:
    slot, hung = endpoint.server.slots["sentiment"], [version(number) for number in range(2, 3 + FEW)]
    with contextlib.ExitStack() as ended:
        for one in hung:
            one.model.open.clear()
            ended.callback(one.model.open.set)
            with pytest.raises(ValueError, match="does not answer its own examples within"):
                endpoint.run(slot.prepare(one, served=True), timeout_s=5)
        assert_a_thread_is_free(endpoint)
        endpoint.run(slot.swap(version(9)))
        assert slot.current.loaded.version == 9


def test_models_that_hang_while_paths_are_tried_keep_no_thread_that_others_need(
    endpoint: endpoints.Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(slots.paths, "choose", lambda *given: gate.wait(10))
    try:
        for number in range(2, 3 + FEW):
            with pytest.raises(ValueError, match="does not answer its own examples within"):
                endpoint.run(endpoint.server.slots["sentiment"].prepare(version(number), served=True), timeout_s=5)
        assert_a_thread_is_free(endpoint)
    finally:
        gate.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_has_ended() -> None:
    def die() -> None:
        raise RuntimeError("no more")

    async def scenario() -> None:
        worker = threads.Worker(die, "dying")
        await asyncio.wait_for(asyncio.gather(worker.ended(), worker.ended()), 5)
        assert not worker.is_alive()

    asyncio.run(scenario())


def test_a_thread_outlives_its_loop_in_peace() -> None:
    gate = threading.Event()

    def late() -> None:
        gate.wait(10)

    async def scenario() -> threads.Worker:
        return threads.Worker(late, "late")

    worker = asyncio.run(scenario())
    gate.set()
    worker.join(5)
    assert not worker.is_alive()


def test_what_a_thread_has_scheduled_has_run_when_it_has_ended() -> None:
    async def scenario() -> None:
        loop, seen = asyncio.get_running_loop(), list[Any]()

        def work() -> None:
            time.sleep(0.05)
            loop.call_soon_threadsafe(seen.append, "last")

        await threads.Worker(work, "brief").ended()
        assert seen == ["last"]

    asyncio.run(scenario())
