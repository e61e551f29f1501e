"""An endpoint on a cluster: what it needs there, what it refuses, and where it is asked for health."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from services import hosting
from services.models import Stored
from services.options import Options
from services.resources import Hardware
from services.scaling import Scaling
from services.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")

RUNNING = hosting._running
DRAIN_S = 70


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What stands for a Ray on so many machines, on which all starts at once."""
    ray = pytest.importorskip("ray")
    machines = [1]
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(
        ray,
        "nodes",
        lambda: [
            {"Alive": number < machines[0], "NodeManagerAddress": f"10.0.0.{number}", "NodeID": str(number)}
            for number in range(machines[0] + 1)
        ],
    )
    monkeypatch.setattr(hosting, "_running", lambda apps, patience_s: contextlib.nullcontext())
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


@pytest.fixture
def applications(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What runs on a Serve that stands for a cluster's."""
    serve = pytest.importorskip("ray.serve")
    there: dict[str, str] = {}
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=dict(there)))
    monkeypatch.setattr(serve, "RunTarget", lambda app, name, route_prefix: (name, app))
    monkeypatch.setattr(serve, "run_many", there.update)
    monkeypatch.setattr(serve, "delete", lambda name, _blocking: there.pop(name))
    return there


def test_an_endpoint_is_gone_when_its_block_ends(applications: dict[str, str]) -> None:
    with hosting._running({"eagerly-9000": "mine"}, 1):  # type: ignore[dict-item]
        assert applications == {"eagerly-9000": "mine"}
    assert not applications


def test_a_second_endpoint_of_the_same_port_is_refused_and_the_first_stays(applications: dict[str, str]) -> None:
    applications["eagerly-9000"] = "theirs"
    with (
        pytest.raises(ValueError, match=r"runs eagerly-9000 already, .*; choose another with --port, or stop"),
        hosting._running({"eagerly-9000": "mine"}, 1),  # type: ignore[dict-item]
    ):
        pass
    assert applications == {"eagerly-9000": "theirs"}
    with hosting._running({"eagerly-9001": "mine"}, 1):  # type: ignore[dict-item]
        assert len(applications) == 2
    assert applications == {"eagerly-9000": "theirs"}


class Leaving:
    """A Serve whose applications take their time to go, on a clock that only sleeping moves."""

    def __init__(self, there: dict[str, str]) -> None:
        self.there, self.now_s = there, 0.0
        self.gone_at: dict[str, float] = {}

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def status(self) -> SimpleNamespace:
        still = {name: app for name, app in self.there.items() if self.gone_at.get(name, float("inf")) > self.now_s}
        return SimpleNamespace(applications=still)

    def delete(self, name: str, _blocking: bool) -> None:
        assert not _blocking, "Serve's own waiting ends after 60 s"
        self.gone_at[name] = self.now_s + (0 if "sentiment" in name else DRAIN_S)


@pytest.fixture
def leaving(applications: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Leaving:
    """Where an endpoint takes longer to go than Serve waits, and the part of a network goes at once."""
    serve, made = pytest.importorskip("ray.serve"), Leaving(applications)
    monkeypatch.setattr(serve, "status", made.status)
    monkeypatch.setattr(serve, "delete", made.delete)
    monkeypatch.setattr(hosting, "time", made)
    return made


def test_an_endpoint_may_drain_for_longer_than_a_minute_and_its_parts_go_after_it(
    started: list[int], closed_port: int, leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    started[0] = 2
    monkeypatch.setattr(hosting, "_running", RUNNING)
    options = Options(port=closed_port, notice_s=20, drain_s=40)
    stored = [Stored("sentiment", "", 1, "", "")]
    with hosting.deployed(options, stored, Hardware(apart={"sentiment": 1})):
        assert len(leaving.there) == 2
    assert leaving.status().applications == {}
    assert list(leaving.gone_at) == [f"eagerly-{closed_port}", f"eagerly-{closed_port}-sentiment-1"]
    assert DRAIN_S <= leaving.gone_at[f"eagerly-{closed_port}-sentiment-1"] < DRAIN_S + 1


def test_an_endpoint_that_does_not_go_is_named_and_left_to_ray(
    leaving: Leaving, capsys: pytest.CaptureFixture[str]
) -> None:
    with hosting._running({"eagerly-9000": "mine", "eagerly-9001": "mine"}, 50):  # type: ignore[dict-item]
        pass
    assert len(leaving.gone_at) == 2
    assert leaving.now_s < 51
    assert capsys.readouterr().err == ("still there after 50 s, and left to Ray to end: eagerly-9000, eagerly-9001\n")


@pytest.mark.parametrize(("uri", "is_shared"), [("sqlite:////srv/mlflow.db", False), ("http://mlflow:5000", True)])
def test_replicas_on_several_machines_need_a_registry_that_all_reach(
    started: list[int], closed_port: int, uri: str, is_shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started[0] = 2
    refusal = pytest.raises(ValueError, match=r"2 machines, .* is a file of one")
    with (
        contextlib.nullcontext() if is_shared else refusal,
        hosting.deployed(Options(port=closed_port), [], Hardware(), Store(str(tmp_path), uri)),
    ):
        pass


@pytest.mark.parametrize(("free", "says"), [(1.0, "the endpoint takes 2, and the cluster has 4, 1 of them"), (2.0, "")])
def test_an_endpoint_that_waits_for_cpus_says_so(
    started: list[int],
    closed_port: int,
    free: float,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started[0] = 2
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": free})
    with hosting.deployed(Options(port=closed_port), [], Hardware(Scaling(replicas=2), cpus=1)):
        pass
    told = capsys.readouterr().err
    assert says in told
    assert len(told.splitlines()) == bool(says)
