"""A registry that answers rightly, but takes seconds for each answer: what serves serves on, and swaps still come."""

import contextlib
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import endpoints
import pytest
from registries import eventually

from benchmarks.crowd import crowd
from benchmarks.registry_server import SLOW, Registry
from eagerly.client import Client, Raw
from services.follower import Follower
from services.models import Stored
from services.options import Options
from services.store import Store
from services.watcher import Watcher

IMAGE = Raw(bytes(28 * 28), (28, 28))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry that takes its time, but no longer than MLflow may wait."""
    served = Registry()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield served
    served.close()


@pytest.fixture
def add(registry: Registry, artifacts: dict[int, tuple[Path, str]]) -> Callable[[int], None]:
    """Registers a version as champion."""
    return lambda number: registry.register("classifier", number, *artifacts[number])


@contextlib.contextmanager
def following(store: Store, folder: Path) -> Iterator[endpoints.Endpoint]:
    """A replica as endpoint.py makes it, without Ray, with the watcher's process."""
    follower = Follower(store, [Stored("classifier", "", 1, "", "")], Options(poll_s=0.2))
    with endpoints.followed(follower, folder) as endpoint:
        yield endpoint


@contextlib.contextmanager
def calling(endpoint: endpoints.Endpoint) -> Iterator[list[int]]:
    """Calls all the time; yields the versions that answered, and raises what a call raised."""
    versions: list[int] = []

    def work(number: int, stop: threading.Event) -> None:
        with Client(endpoint.address) as client:
            while not stop.is_set():
                (result,) = client.classify([IMAGE])
                versions.append(int(result.provenance.version))

    with crowd(1, work):
        yield versions


def figure(endpoint: endpoints.Endpoint, start: str) -> float:
    text = urllib.request.urlopen(endpoint.metrics).read().decode()
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return float(line.split()[-1])


def test_what_serves_serves_on_and_a_swap_comes_without_a_failed_call(
    registry: Registry, add: Callable[[int], None], tmp_path: Path
):
    add(1)
    store = Store(str(tmp_path / "home"), registry.uri)
    with following(store, tmp_path) as endpoint:
        registry.be(SLOW)
        with calling(endpoint) as versions:
            registry.asked.clear()
            assert eventually(lambda: registry.asked["registered-models/get"] > 2, 60)
            assert versions[-1] == 1
            add(2)
            assert eventually(lambda: versions[-1] == 2, 60)
        assert versions == sorted(versions)
        assert figure(endpoint, "eagerly_registry_up") == 1
        assert figure(endpoint, 'eagerly_model_swaps_total{outcome="refused"') == 0
    assert store.state().up


def test_a_node_without_a_model_gets_one(registry: Registry, add: Callable[[int], None], tmp_path: Path):
    add(1)
    registry.be(SLOW)
    store = Store(str(tmp_path / "home"), registry.uri)
    descriptor = store.use("classifier")
    assert Watcher(store).look()
    found = store.current("classifier")
    assert found and found.version == 1
    os.close(descriptor)
