"""An endpoint is asked for health where it can be, and nowhere else; Serve has awaited its start in any case."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from services import hosting
from services.options import Options
from services.resources import Hardware

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What stands for a Ray on so many machines, on which all starts at once."""
    ray = pytest.importorskip("ray")
    machines = [1]
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * machines[0] + [{"Alive": False}])
    monkeypatch.setattr(hosting, "_running", lambda apps: contextlib.nullcontext())
    monkeypatch.setattr(hosting, "HEALTH_TIMEOUT_S", 0.3)
    return machines


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_replicas_on_other_machines_are_not_asked_on_this_one(started: list[int], closed_port: int) -> None:
    started[0] = 2
    for options in (Options(probe_port=closed_port), Options(port=closed_port)):
        with hosting.deployed(options, [], Hardware()):
            pass


def test_an_endpoint_on_this_machine_that_does_not_answer_is_no_endpoint(started: list[int], closed_port: int) -> None:
    with (
        pytest.raises(ValueError, match=rf"127\.0\.0\.1:{closed_port} started but does not answer"),
        hosting.deployed(Options(probe_port=closed_port), [], Hardware()),
    ):
        pass


def test_health_is_asked_past_a_proxy(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setattr(hosting, "HEALTH_TIMEOUT_S", 0.5)
        with pytest.raises(ValueError, match="does not answer"):
            hosting.await_health(f"127.0.0.1:{closed_port}")
        proxy.settimeout(0.1)
        with pytest.raises(TimeoutError):
            proxy.accept()
