"""A part of a network by itself, what health says of it, and what a caller sees while it is away; no Ray runs here."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import endpoints
import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from inference import call

from benchmarks.apart import encoder
from eagerly.client import CallError, Client
from services import errors
from services.models import Stored
from services.oip import open_inference_pb2 as pb

# ray.serve is imported by the first test; its own use of pydantic is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
BATCH = [np.array([[4, 5, -1], [4, 6, 7]]), np.zeros(0, dtype=np.int64), np.zeros(2, dtype=np.int64)]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Stored]:
    """Three models."""
    folder = tmp_path_factory.mktemp("models")
    return [encoder(folder / str(number), layers=1, seed=number) for number in (1, 2, 3)]


def part(stored: Stored, index: int = 0, count: int = 1) -> Any:
    from services.apart import Part

    return Part(asdict(stored), index, count, "cpu", 1)


def test_a_part_answers_with_the_model_that_is_named_and_holds_two(
    versions: list[Stored], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.apart.RECENT_S", 0.0)

    async def told() -> tuple[list[Any], list[list[str]]]:
        one, answers, held = part(versions[0]), [], []
        for stored in (*versions, versions[0]):
            answers.append((await one.compute(asdict(stored), BATCH))[0])
            held.append(list((await one.holds())["weights"]))
        return answers, held

    answers, held = asyncio.run(told())
    assert np.array_equal(answers[0], answers[3])
    assert not np.array_equal(answers[0], answers[1])
    first, second, third = (stored.digest for stored in versions)
    assert held == [[first], [first, second], [second, third], [third, first]]


def test_a_part_holds_a_third_model_for_as_long_as_all_three_are_asked_for(
    versions: list[Stored], monkeypatch: pytest.MonkeyPatch
):
    facts = [asdict(stored) for stored in versions]

    async def held() -> list[int]:
        one, counts = part(versions[0]), []
        await one.hold(facts[0])
        for wanted in (facts[1], facts[2], facts[0]):
            await one.hold(wanted)
            counts.append(len((await one.holds())["weights"]))
        monkeypatch.setattr("services.apart.RECENT_S", 0.0)
        await one.hold(facts[0])
        return [*counts, len((await one.holds())["weights"])]

    assert asyncio.run(held()) == [2, 3, 3, 2]


def test_a_part_has_the_model_that_answers_while_another_is_being_loaded(versions: list[Stored]):
    async def answered() -> bool:
        one, gate = part(versions[0]), threading.Event()
        load = one._load
        one._load = lambda stored: (gate.wait(30), load(stored))[1]
        loading = asyncio.create_task(one.hold(asdict(versions[1])))
        await asyncio.sleep(0.1)
        try:
            async with asyncio.timeout(5):
                await one.hold(asdict(versions[0]))
                await one.compute(asdict(versions[0]), BATCH)
            return not loading.done()
        finally:
            gate.set()
            await loading

    assert asyncio.run(answered())


def test_a_part_that_is_started_again_when_its_first_model_is_gone_takes_the_one_that_is_asked(
    versions: list[Stored],
):
    gone = Stored("sentiment", "/nowhere", 0, "run-0", "0" * 64)
    (logits_BC,) = asyncio.run(part(gone).compute(asdict(versions[0]), BATCH))
    assert logits_BC.shape == (2, 2)


def test_a_part_takes_arrays_that_cannot_be_written_to_as_ray_hands_them_over(versions: list[Stored]):
    for array in BATCH:
        array.setflags(write=False)
    assert asyncio.run(part(versions[0]).compute(asdict(versions[0]), BATCH))[0].shape == (2, 2)


def test_a_task_that_cannot_be_taken_apart_is_one_sentence(tmp_path: Path):
    from benchmarks.serving import convnet

    with pytest.raises(ValueError, match=r"--apart classifier: its Model has no load_apart\(\) and load_stage\(\)"):
        part(convnet(tmp_path / "convnet"))


class Response:
    """A call of a part that gives these, one after the other."""

    def __init__(self, *outcomes: Any) -> None:
        self._outcomes: Iterator[Any] = iter(outcomes)
        self.is_cancelled = False

    def result(self, timeout_s: float) -> Any:
        outcome = next(self._outcomes)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def cancel(self) -> None:
        self.is_cancelled = True


def test_a_call_waits_for_a_part_that_lives_and_gives_up_on_one_that_does_not():
    from services.apart import _wait

    assert (
        _wait(Response(TimeoutError(), TimeoutError(), "answer"), "sentiment", float("inf"), lambda: True) == "answer"
    )
    given_up = Response(TimeoutError(), "too late")
    with pytest.raises(errors.Away, match="sentiment is starting again"):
        _wait(given_up, "sentiment", float("inf"), lambda: False)
    assert given_up.is_cancelled


def test_the_death_of_a_part_is_away_and_its_refusal_its_own_sentence():
    from ray import exceptions

    from services.apart import _wait

    refused = exceptions.RayTaskError("load", "Traceback", ValueError("the folder is corrupt"))
    died_before = exceptions.RayTaskError("compute", "Traceback", exceptions.ActorDiedError())
    with pytest.raises(ValueError, match="the folder is corrupt"):
        _wait(Response(refused), "sentiment", 1.0)
    for death in (exceptions.ActorDiedError(), died_before, asyncio.CancelledError()):
        with pytest.raises(errors.Away):
            _wait(Response(death), "sentiment", 1.0)


class Gone(endpoints.Gate):
    """A model whose network is away."""

    is_away = False

    def predict(self, texts: list[str]) -> list[Any]:
        if self.is_away:
            raise errors.Away("the process that computes sentiment is starting again")
        return super().predict(texts)


def test_a_network_that_is_away_is_unavailable_and_not_serving_until_it_is_back(tmp_path: Path):
    gone = Gone()
    models = [endpoints.loaded("sentiment", gone), endpoints.loaded("classifier", endpoints.classifier())]
    with endpoints.serving(models, tmp_path) as running, grpc.insecure_channel(running.address) as channel:
        client = Client(running.address, timeout_s=5)
        health: Any = health_pb2_grpc.HealthStub(channel)

        def healthy() -> list[bool]:
            names = ("eagerly.v1.Sentiment", "eagerly.v1.Classifier", "")
            return [health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1 for name in names]

        def ready() -> list[bool]:
            asked = [pb.ModelReadyRequest(name=name) for name in ("sentiment", "classifier")]
            models = [call(channel, "ModelReady", one, pb.ModelReadyResponse).ready for one in asked]
            return [*models, call(channel, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready]

        def mark(task: str, is_up: bool) -> None:
            running.loop.call_soon_threadsafe(running.server.mark, task, is_up)

        gone.is_away = True
        mark("sentiment", False)
        with pytest.raises(CallError) as refused:
            client.analyze(["a text"])
        assert (refused.value.code, refused.value.reason) == ("UNAVAILABLE", "MODEL_AWAY")
        assert healthy() == ready() == [False, True, True]
        mark("classifier", False)
        assert healthy() == ready() == [False, False, False]
        gone.is_away = False
        mark("sentiment", True)
        mark("classifier", True)
        assert healthy() == ready() == [True, True, True]
        assert client.analyze(["a text"])[0].labels[0].label == "a text"
        client.close()
