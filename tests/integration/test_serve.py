"""The endpoint on real Ray Serve: replicas that share a port, die, refuse, drain."""

import contextlib
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.crowd import crowd
from benchmarks.serving import convnet
from eagerly.client import CallError, Client, Raw
from eagerly.commands.serve import Running, Serve, serving
from services.metrics import alive_pids
from services.models import Stored

# ray.serve is imported by the first test; its own use of pydantic is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
IMAGE = Raw(bytes(28 * 28), (28, 28))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """A classifier with random weights."""
    return convnet(tmp_path_factory.mktemp("models") / "convnet")


@pytest.fixture(scope="module")
def running(ray_cluster: None, stored: Stored) -> Iterator[Running]:
    """Two replicas."""
    with serving(Serve(port=0, metrics_port=0, replicas=2, threads=1), [stored]) as endpoint:
        yield endpoint


def requests_total(running: Running) -> float:
    """Calls answered OK, as one scrape tells."""
    text = urllib.request.urlopen(running.metrics).read().decode()
    start = 'eagerly_requests_total{code="OK",method="Classify"'
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return float(line.split()[-1])


def replicas(running: Running) -> set[int]:
    """The process ids of the replicas that are alive."""
    return alive_pids(running.metrics_folder)


def call_until(stop: threading.Event, running: Running, ledger: list[str]) -> None:
    """Calls over one connection after another and writes down what came of each call."""
    while not stop.is_set():
        with Client(running.address, timeout_s=30) as client:
            for _ in range(20):
                try:
                    ledger.append("OK" if not client.classify([IMAGE])[0].error else "item")
                except CallError as error:
                    ledger.append(error.code)


@contextlib.contextmanager
def load(running: Running, callers: int = 4) -> Iterator[list[str]]:
    """Calls while the block runs; the ledger is complete when it ends."""
    ledger: list[str] = []
    with crowd(callers, lambda _, stop: call_until(stop, running, ledger)):
        yield ledger


def test_two_replicas_share_the_port_and_one_scrape_covers_both(running: Running):
    assert len(replicas(running)) == 2
    before = requests_total(running)
    for _ in range(20):
        with Client(running.address) as client:
            client.classify([IMAGE])
    assert {requests_total(running) for _ in range(10)} == {before + 20}


def test_prometheus_reads_how_many_replicas_there_are_and_should_be(running: Running):
    def read(name: str) -> str:
        text = urllib.request.urlopen(running.metrics).read().decode()
        return re.findall(rf'^{name}{{service="classifier"}} (\S+)$', text, re.MULTILINE)[0]

    until = time.monotonic() + 20
    while read("eagerly_replicas_wanted") != "2.0" and time.monotonic() < until:
        time.sleep(0.2)  # Serve says so when it asks after the replica's health
    assert (read("eagerly_replicas"), read("eagerly_replicas_wanted")) == ("2.0", "2.0")


def test_calls_survive_the_death_of_a_replica_and_its_gauges_vanish(running: Running):
    victim, other = sorted(replicas(running))
    with load(running) as ledger:
        time.sleep(0.5)
        os.kill(victim, signal.SIGKILL)
        until = time.monotonic() + 60
        while len(replicas(running) - {victim, other}) < 1 and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(0.5)
    assert set(ledger) == {"OK"}
    assert other in replicas(running)
    assert len(replicas(running)) == 2
    before = requests_total(running)
    assert before >= len(ledger)
    gauges = {int(path.stem.rpartition("_")[2]) for path in running.metrics_folder.glob("gauge_live*.db")}
    assert gauges == replicas(running)


def test_a_corrupt_artifact_is_refused_with_a_sentence(running: Running, tmp_path: Path):
    broken = convnet(tmp_path / "broken")
    weights = Path(broken.folder) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    broken_endpoint = serving(Serve(port=0, metrics_port=0), [broken])
    with pytest.raises(ValueError, match=r"model\.safetensors") as refused, broken_endpoint:
        pass
    assert "\n" not in str(refused.value)
    with Client(running.address) as client:
        assert client.healthy("eagerly.v1.Classifier")
