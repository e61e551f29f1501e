"""A network in two processes of its own, on real Ray Serve: it answers, swaps, dies and comes back."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from safetensors.torch import load_file

from benchmarks.apart import TEXT, encoder
from benchmarks.crowd import crowd
from eagerly.client import CallError, Client
from eagerly.commands.serve import Serve, serving
from eagerly.v1 import sentiment_pb2, sentiment_pb2_grpc
from services import hosting, ports
from services.models import Stored
from services.options import Options
from services.resources import Hardware
from services.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
TEXTS = [TEXT, "bad", "not a good day and not a bad day", "再也不来了"]


class Place:
    """A store with versions of a model, and the endpoint that follows it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.store = Store(str(folder / "home"), "sqlite:///none.db")
        self.port, self.address = port, f"127.0.0.1:{port}"
        self._folder = folder

    def publish(self, number: int) -> Stored:
        """Has the store want a version, as the watcher does."""
        made = encoder(self._folder / f"model-{number}", seed=number)
        stored = replace(made, folder=str(self.store.place("sentiment", number, made.digest)))
        shutil.copytree(made.folder, stored.folder)
        self.store.publish(stored)
        return stored

    def parts(self) -> list[dict[str, Any]]:
        """What each process says that it holds."""
        from ray import serve

        handles = [serve.get_app_handle(f"eagerly-{self.port}-sentiment-{number}") for number in (1, 2)]
        return [handle.holds.remote().result(timeout_s=60) for handle in handles]


@pytest.fixture(scope="module")
def place(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The endpoint, with version 1."""
    port, metrics_port = ports.find("127.0.0.1", 0, "--port"), ports.find("127.0.0.1", 0, "--metrics-port")
    options = Options(port=port, metrics_port=metrics_port, drain_s=5)
    place = Place(tmp_path_factory.mktemp("apart"), port)
    watching = place.store.watch()  # so that no replica starts a watcher: there is no registry
    assert watching is not None
    with hosting.ray_running():
        stored = place.publish(1)
        with hosting.deployed(options, [stored], Hardware(apart={"sentiment": 2}), place.store):
            yield place
    os.close(watching)


def test_two_processes_answer_what_the_whole_model_does_and_each_holds_its_half(place: Place):
    from pipelines.sentiment.model import Model

    current = place.store.current("sentiment")
    assert current is not None
    expected = Model.load(Path(current.folder)).predict(TEXTS)
    with Client(place.address, timeout_s=30) as client:
        found = client.analyze(TEXTS)
    for one, whole in zip(found, expected, strict=True):
        assert [label.label for label in one.labels] == [label for label, _ in whole.labels]  # type: ignore[union-attr]
        assert [label.score for label in one.labels] == pytest.approx([score for _, score in whole.labels], abs=1e-6)  # type: ignore[union-attr]
    first, second = place.parts()
    weights = [part["weights"][current.digest] for part in (first, second)]
    assert first["pid"] != second["pid"]
    assert not set(weights[0]) & set(weights[1])
    assert {**weights[0], **weights[1]} == {
        name: one.nbytes for name, one in load_file(Path(current.folder) / "model.safetensors").items()
    }
    assert 0.35 < sum(weights[0].values()) / sum(sum(one.values()) for one in weights) < 0.65


def test_a_new_version_is_taken_up_under_load_and_no_reply_mixes_two(place: Place):
    ledger: list[tuple[str, str]] = []

    def call(number: int, stop: threading.Event) -> None:
        with Client(place.address, timeout_s=30) as client:
            while not stop.is_set():
                try:
                    (result,) = client.analyze([TEXT])
                    ledger.append((result.provenance.version, result.labels[0].label.rpartition(" ")[2]))
                except CallError as error:
                    ledger.append((error.code, str(error)))

    with crowd(3, call):
        new = place.publish(2)
        until = time.monotonic() + 60
        while ("2", "2") not in ledger[-5:] and time.monotonic() < until:
            time.sleep(0.1)
    assert set(ledger) == {("1", "1"), ("2", "2")}
    for part in place.parts():
        assert len(part["weights"]) <= 2
        assert new.digest in part["weights"]


def test_the_death_of_a_process_is_unavailable_then_not_serving_then_over(place: Place):
    codes, states = [], []
    victim = place.parts()[1]["pid"]
    request = sentiment_pb2.AnalyzeRequest(texts=TEXTS)
    own = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(place.address, own) as channel:
        stub: Any = sentiment_pb2_grpc.SentimentStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        stub.Analyze(request, timeout=30)
        os.kill(victim, signal.SIGKILL)
        until = time.monotonic() + 90
        while time.monotonic() < until and not ("UNAVAILABLE" in codes and states[-1:] == [True] and codes[-1] == "OK"):
            try:
                stub.Analyze(request, timeout=20)
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append(error.code().name)  # type: ignore[attr-defined]
            states.append(health.Check(health_pb2.HealthCheckRequest(service="eagerly.v1.Sentiment")).status == 1)
            time.sleep(0.1)
    assert set(codes) == {"OK", "UNAVAILABLE"}
    assert False in states
    assert (codes[-1], states[-1]) == ("OK", True)
    assert place.parts()[1]["pid"] != victim


def test_what_cannot_be_taken_apart_is_refused_with_a_sentence(place: Place, tmp_path: Path):
    made = encoder(tmp_path / "model", layers=1)
    args = Serve(services=("sentiment",), port=0, metrics_port=0, apart=("sentiment=4",))
    with (
        pytest.raises(ValueError, match=r"--apart sentiment=4: the model has 3 parts to share out"),
        serving(args, [made]),
    ):
        pass
