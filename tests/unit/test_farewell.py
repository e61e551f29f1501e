"""A server that goes tells those who watch its health, then asks clients to leave, then answers what it has."""

import asyncio
import concurrent.futures
import threading
from pathlib import Path
from typing import Any

import endpoints
import grpc
import registries
import relays
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.frames import DATA
from eagerly.client import Client
from eagerly.v1 import sentiment_pb2

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
CALLS = 16


def analyze(channel: grpc.Channel, text: str) -> str:
    method = channel.unary_unary(
        "/eagerly.v1.Sentiment/Analyze", response_deserializer=sentiment_pb2.AnalyzeResponse.FromString
    )
    return method(sentiment_pb2.AnalyzeRequest(texts=[text]).SerializeToString(), timeout=10).results[0].labels[0].label


def watch(channel: grpc.Channel) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=20)


def places(line: relays.Line, kind: int, words: bytes = b"") -> list[int]:
    """Where in what the server sent frames of a kind stand that hold some words."""
    return [at for at, frame in enumerate(line.answered) if frame.kind == kind and words in frame.payload]


def test_watchers_hear_not_serving_before_the_connection_drains_and_calls_in_flight_are_answered(tmp_path: Path):
    model = endpoints.Gate()
    running = endpoints.Endpoint([endpoints.loaded("sentiment", model)], tmp_path)
    running.run(running.server.start())
    with (
        relays.Relay(running.address) as relay,
        grpc.insecure_channel(relay.address) as channel,
        concurrent.futures.ThreadPoolExecutor(CALLS + 1) as pool,
    ):
        states = watch(channel)
        assert next(states).status == SERVING
        model.computing.clear()
        model.open.clear()
        calls = [pool.submit(analyze, channel, f"call {number}") for number in range(CALLS)]
        assert model.computing.wait(5)
        draining = asyncio.run_coroutine_threadsafe(running.server.drain(), running.loop)
        assert next(states).status == NOT_SERVING
        calls.append(pool.submit(analyze, channel, f"call {CALLS}"))
        (line,) = relay.lines
        assert registries.eventually(lambda: places(line, relays.GOAWAY), 5)
        assert not draining.done()
        model.open.set()
        assert [call.result(10) for call in calls] == [f"call {number}" for number in range(CALLS + 1)]
        draining.result(10)
        assert list(states) == []
        told = places(line, DATA, bytes([8, NOT_SERVING]))[0]
        answered = places(line, DATA, b"call ")
        assert told < places(line, relays.GOAWAY)[0] < answered[0]
        assert len(answered) == CALLS + 1 and line.ended.is_set()
    running.close()


def test_clients_with_the_shipped_service_config_go_over_to_another_server_without_a_failed_call(tmp_path: Path):
    (tmp_path / "other").mkdir()
    one, other = endpoints.Gate(), endpoints.Gate()
    leaving = endpoints.Endpoint([endpoints.loaded("sentiment", one)], tmp_path)
    leaving.run(leaving.server.start())
    models, port = [endpoints.loaded("sentiment", other)], leaving.server.port
    answers: list[str] = []
    gone = threading.Event()

    def call() -> None:
        with Client(leaving.address, connections=8) as client:
            while not (gone.is_set() and "after" in other.computed):
                text = "after" if gone.is_set() else "before"
                answers.append(client.analyze([text])[0].labels[0].label)

    with (
        endpoints.serving(models, tmp_path / "other", port=port),
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        callers = [pool.submit(call) for _ in range(4)]
        assert registries.eventually(lambda: "before" in one.computed, 10)
        leaving.run(leaving.server.drain())
        gone.set()
        for caller in callers:
            caller.result(20)
    leaving.close()
    assert set(answers) == {"before", "after"}
