"""A model is swapped for another between two calls: none fails, none is answered by two, and the old one is gone."""

import asyncio
import contextlib
import gc
import threading
import time
import urllib.request
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import endpoints
import grpc
import pytest
import registries

from benchmarks.crowd import crowd
from eagerly.v1 import sentiment_pb2
from pipelines.sentiment.model import Prediction
from services import slots
from services.models import Loaded

METHOD = "/eagerly.v1.Sentiment/Analyze"


class Versioned:
    """A model whose every label is its version, and which takes a while over a batch."""

    def __init__(self, version: int, flaw: Exception | None = None) -> None:
        self.version = version
        self.flaw = flaw
        self.open = threading.Event()
        self.open.set()

    def examples(self) -> list[str]:
        return ["first", "second"]

    def predict(self, texts: list[str]) -> list[Any]:
        if isinstance(self.flaw, ValueError):
            return [self.flaw for _ in texts]
        if self.flaw:
            raise self.flaw
        self.open.wait(10)
        time.sleep(0.002)
        return [Prediction([(str(self.version), 1.0)]) for _ in texts]


def version(number: int, flaw: Exception | None = None) -> Loaded:
    return replace(endpoints.loaded("sentiment", Versioned(number, flaw)), version=number)


def gauges(endpoint: endpoints.Endpoint, name: str) -> dict[str, float]:
    """A metric's values by the label that differs: version or outcome."""
    text = urllib.request.urlopen(endpoint.metrics).read().decode()
    lines = [line for line in text.splitlines() if line.startswith(name + "{")]
    key = "version" if "info" in name else "outcome"
    return {line.split(f'{key}="')[1].partition('"')[0]: float(line.split()[-1]) for line in lines}


def call(channel: grpc.Channel, items: int) -> tuple[int, str]:
    """Calls once and returns the version that the reply names; every label must be of that version."""
    method = channel.unary_unary(
        METHOD, sentiment_pb2.AnalyzeRequest.SerializeToString, sentiment_pb2.AnalyzeResponse.FromString
    )
    request = sentiment_pb2.AnalyzeRequest(texts=["text"] * items)
    reply, ended = method.with_call(request, timeout=10)
    named = int(endpoints.trailers(ended)["eagerly-model-version"])
    labels = {result.labels[0].label for result in reply.results}
    return named, "" if labels == {str(named)} else f"version {named} answered {labels}"


@contextlib.contextmanager
def load(endpoint: endpoints.Endpoint, callers: int) -> Iterator[list[list[tuple[int, str]]]]:
    """Calls from several threads, each over a connection of its own; yields what each got, in order."""
    ledgers: list[list[tuple[int, str]]] = [[] for _ in range(callers)]

    def work(number: int, stop: threading.Event) -> None:
        with grpc.insecure_channel(endpoint.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            while not stop.is_set():
                try:
                    ledgers[number].append(call(channel, items=1 + number * 30))
                except grpc.RpcError as error:
                    ledgers[number].append((0, str(error)))

    with crowd(callers, work):
        yield ledgers


def test_swaps_under_load_fail_no_call_mix_no_reply_and_never_go_back(tmp_path: Path):
    with endpoints.serving([version(1)], tmp_path, max_batch=16) as endpoint:
        slot = endpoint.server.slots["sentiment"]
        with load(endpoint, callers=5) as ledgers:
            for number in range(2, 22):
                endpoint.run(slot.swap(version(number)))
                time.sleep(0.03)
        for ledger in ledgers:
            assert [problem for _, problem in ledger if problem] == []
            versions = [named for named, _ in ledger]
            assert versions == sorted(versions)
            assert len(set(versions)) > 10
        assert {key for key, value in gauges(endpoint, "eagerly_model_info").items() if value} == {"21"}


def test_calls_that_wait_are_answered_by_the_model_they_came_to(tmp_path: Path):
    first = version(1)
    with endpoints.serving([first], tmp_path) as endpoint, grpc.insecure_channel(endpoint.address) as channel:
        first.model.open.clear()
        answers: list[tuple[int, str]] = []
        waiting = [threading.Thread(target=lambda: answers.append(call(channel, 3))) for _ in range(4)]
        for thread in waiting:
            thread.start()
        time.sleep(0.3)
        slot = endpoint.server.slots["sentiment"]
        swap = asyncio.run_coroutine_threadsafe(slot.swap(version(2)), endpoint.loop)
        assert registries.eventually(lambda: slot.current.loaded.version == 2)
        assert call(channel, 1) == (2, ""), "new calls do not wait for the old model"
        assert not swap.done()
        first.model.open.set()
        swap.result(10)
        for thread in waiting:
            thread.join()
    assert answers == [(1, "")] * 4


def test_a_former_model_that_hangs_keeps_no_later_one_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slots, "RETIRE_S", 0.2)
    first = version(1)
    with endpoints.serving([first], tmp_path) as endpoint, grpc.insecure_channel(endpoint.address) as channel:
        first.model.open.clear()
        answers: list[tuple[int, str]] = []
        waiting = threading.Thread(target=lambda: answers.append(call(channel, 3)))
        waiting.start()
        time.sleep(0.3)
        slot = endpoint.server.slots["sentiment"]
        for number in (2, 3):
            endpoint.run(slot.swap(version(number)))
            assert call(channel, 1) == (number, "")
        first.model.open.set()
        waiting.join()
    assert answers == [(1, "")]


def test_a_model_that_hangs_in_its_warm_up_is_refused_and_the_next_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(slots, "WARM_UP_S", 0.3)
    monkeypatch.setattr(slots, "RETIRE_S", 0.2)
    hung = version(2)
    with endpoints.serving([version(1)], tmp_path) as endpoint, grpc.insecure_channel(endpoint.address) as channel:
        slot = endpoint.server.slots["sentiment"]
        hung.model.open.clear()
        try:
            with pytest.raises(ValueError, match="does not answer its own examples within"):
                endpoint.run(slot.swap(hung), timeout_s=5)
            assert call(channel, 1) == (1, "")
            endpoint.run(slot.swap(version(3)))
            assert call(channel, 1) == (3, "")
        finally:
            hung.model.open.set()


@pytest.mark.parametrize("flaw", [ValueError("not this"), RuntimeError("out of memory")])
def test_a_model_that_fails_on_its_own_examples_leaves_the_one_before(tmp_path: Path, flaw: Exception):
    with endpoints.serving([version(1)], tmp_path) as endpoint, grpc.insecure_channel(endpoint.address) as channel:
        slot = endpoint.server.slots["sentiment"]
        with load(endpoint, callers=2) as ledgers, pytest.raises(Exception, match=r"own examples|internal error"):
            endpoint.run(slot.swap(version(2, flaw)))
        assert {named for ledger in ledgers for named, _ in ledger} <= {1}
        assert call(channel, 1) == (1, "")
        assert {key for key, value in gauges(endpoint, "eagerly_model_info").items() if value} == {"1"}
        endpoint.run(slot.swap(version(3)))
        assert call(channel, 1) == (3, "")


def test_the_old_model_and_its_thread_are_gone_after_a_swap(tmp_path: Path):
    models = [version(1)]
    kept = weakref.ref(models[0].model)
    with endpoints.serving(models, tmp_path) as endpoint, grpc.insecure_channel(endpoint.address) as channel:
        threads = threading.active_count()
        call(channel, 1)
        models.clear()
        slot = endpoint.server.slots["sentiment"]
        for number in range(2, 6):
            endpoint.run(slot.swap(version(number)))
            call(channel, 1)
        gc.collect()
        assert kept() is None
        models = [thread for thread in threading.enumerate() if thread.name == "model-sentiment"]
        assert len(models) == 1
        assert threading.active_count() <= threads + 4  # asyncio's own workers


def test_a_swap_while_the_endpoint_drains_leaves_no_thread_behind(tmp_path: Path):
    with endpoints.serving([version(1)], tmp_path) as endpoint:
        slot = endpoint.server.slots["sentiment"]
        swap = asyncio.run_coroutine_threadsafe(slot.swap(version(2)), endpoint.loop)
        drained = asyncio.run_coroutine_threadsafe(endpoint.server.drain(), endpoint.loop)
        swap.result(10)
        drained.result(10)
        assert not [thread for thread in threading.enumerate() if thread.name == "model-sentiment"]
        endpoint.server.drain = _nothing  # it has drained


async def _nothing() -> None:
    pass
