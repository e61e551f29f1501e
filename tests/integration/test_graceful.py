"""Updating an endpoint under load fails no call of clients with the shipped service config, on real Ray Serve."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.crowd import crowd
from benchmarks.serving import convnet
from eagerly.client import CallError, Client, Raw
from eagerly.commands.serve import Running, Serve, serving
from services.metrics import alive_pids
from services.models import Stored
from services.options import Options
from services.resources import Hardware
from services.scaling import Scaling

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
IMAGE = Raw(bytes(28 * 28), (28, 28))
CALLERS = 4
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """A classifier with random weights."""
    return convnet(tmp_path_factory.mktemp("models") / "convnet")


@contextlib.contextmanager
def calling(address: str) -> Iterator[list[str]]:
    """Calls without a pause on connections that stay; yields what came of each call, complete when the block ends."""
    ledger: list[str] = []

    def call(number: int, stop: threading.Event) -> None:
        with Client(address, timeout_s=60) as client:
            while not stop.is_set():
                try:
                    client.classify([IMAGE] * 8)
                    ledger.append("OK")
                except CallError as error:
                    ledger.append(f"{error.code}: {error}")

    with crowd(CALLERS, call):
        yield ledger


class Watchers:
    """Watch health over connections of their own, each of which is one replica's, until it ends."""

    def __init__(self, address: str, count: int) -> None:
        self.seen: list[list[int]] = [[] for _ in range(count)]
        self._address = address
        self._threads = [threading.Thread(target=self._watch, args=(states,)) for states in self.seen]

    def __enter__(self) -> "Watchers":
        for thread in self._threads:
            thread.start()
        until = time.monotonic() + 20
        while not all(self.seen) and time.monotonic() < until:
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(60)

    def _watch(self, states: list[int]) -> None:
        own = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._address, own) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                for reply in stub.Watch(health_pb2.HealthCheckRequest(), timeout=120):
                    states.append(reply.status)
            except grpc.RpcError as error:
                states.append(error.code())  # type: ignore[attr-defined]


def update(running: Running, stored: Stored, replicas: int) -> None:
    """Deploys the endpoint anew in its own place with another option, as an update does."""
    from ray import serve

    from services import endpoint

    port, metrics_port = (
        int(place.rpartition(":")[2].partition("/")[0]) for place in (running.address, running.metrics)
    )
    options = replace(Options(port=port, metrics_port=metrics_port), max_batch=32)
    app = endpoint.application(options, [stored], str(running.metrics_folder), Hardware(Scaling(replicas)))
    serve.run(app, name=f"eagerly-{port}", route_prefix=None)


@pytest.fixture(params=[1, 2])
def running(request: pytest.FixtureRequest, ray_cluster: None, stored: Stored) -> Iterator[tuple[Running, int]]:
    """An endpoint of one replica, and one of two."""
    with serving(Serve(port=0, metrics_port=0, replicas=request.param, threads=1), [stored]) as endpoint:
        yield endpoint, request.param


def test_an_update_under_load_fails_no_call_and_tells_those_who_watch_first(
    running: tuple[Running, int], stored: Stored
):
    endpoint, replicas = running
    before: set[int] = alive_pids(endpoint.metrics_folder)
    with calling(endpoint.address) as ledger:
        with Watchers(endpoint.address, 3) as watchers:
            update(endpoint, stored, replicas)
        after = alive_pids(endpoint.metrics_folder)
        time.sleep(1)
    assert len(before) == len(after) == replicas
    assert not before & after
    assert watchers.seen == [[SERVING, NOT_SERVING]] * 3
    assert len(ledger) > 50
    assert set(ledger) == {"OK"}
