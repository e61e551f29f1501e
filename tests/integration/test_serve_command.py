"""`eagerly serve` as a user runs it: from the registry to a reply, and to an end that leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from benchmarks.serving import convnet
from eagerly.client import Client, Raw
from eagerly.v1 import classifier_pb2, classifier_pb2_grpc
from pipelines import cluster
from services import ports

Served = tuple["subprocess.Popen[str]", int, int, int]
IN_FLIGHT = 4
"""Calls of as many items as a call may have, which together take seconds."""
ROOT = Path(__file__).resolve().parents[2]
REGISTER = """
import sys
from pipelines import registry, tracking
tracker = tracking.Tracker("classifier", "test")
source = tracker.finish({}, __import__("pathlib").Path(sys.argv[1]))
registry.register("classifier", source, tracker.run_id, sys.argv[2], {"accuracy": 1.0}, "accuracy", "auto")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose registry has a champion for the classifier and for nothing else."""
    folder = tmp_path_factory.mktemp("working")
    stored = convnet(folder / "convnet")
    register = subprocess.run(
        [sys.executable, "-c", REGISTER, stored.folder, stored.digest],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert register.returncode == 0, register.stderr
    return folder


def environment(folder: Path) -> dict[str, str]:
    """An environment that names no cluster and no registry but the folder's own."""
    named = (
        cluster.LOOPBACK,
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "MLFLOW_TRACKING_URI",
    )
    kept = {key: value for key, value in os.environ.items() if key not in named}
    return {**kept, "PYTHONPATH": str(ROOT), "EAGERLY_HOME": str(folder / "home")}


def free_ports() -> list[int]:
    return [ports.find("127.0.0.1", 0, flag) for flag in ("--port", "--metrics-port", "--probe-port")]


def exposed_ports(process: psutil.Process) -> set[int]:
    """TCP ports on which a process, or one below it, listens to other machines too."""
    family = [process, *process.children(recursive=True)]
    places = [one.laddr for each in family for one in each.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert places
    return {place.port for place in places if place.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")}


def in_flight(metrics_port: int) -> float:
    """Calls that are being worked on, as the metrics tell."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics").read().decode()
    (line,) = [line for line in text.splitlines() if line.startswith('eagerly_in_flight_requests{method="Classify"')]
    return float(line.split()[-1])


def eagerly(folder: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "eagerly", *words],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    """The command once it says that it is ready, its port and those of its metrics and of probes from elsewhere."""
    port, metrics_port, probe_port = free_ports()
    where = ["--port", str(port), "--metrics-port", str(metrics_port)]
    where += ["--probe-port", str(probe_port), "--probe-host", "0.0.0.0"]
    process = eagerly(folder, "serve", "classifier", *where, "--max-batch", "1")  # so that many items take long
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("ready"):
            break
    assert said, process.communicate()[1]
    yield process, port, metrics_port, probe_port
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_the_champion_is_served_on_loopback_until_ctrl_c_and_no_process_is_left(served: Served, folder: Path):
    process, port, _, probe_port = served
    with Client(f"127.0.0.1:{port}") as client:
        (result,) = client.classify([Raw(bytes(28 * 28), (28, 28))], top_k=2)
    assert len(result.labels) == 2
    assert (result.provenance.model, result.provenance.version) == ("classifier", "1")
    assert exposed_ports(psutil.Process(process.pid)) == {probe_port}, "other machines reach what nobody opened to them"
    assert (folder / "home" / cluster.TOKEN).stat().st_mode & 0o777 == 0o600
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.killpg(process.pid, signal.SIGINT)
    output, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    assert "draining" in output
    assert "Traceback" not in complaint
    until = time.monotonic() + 10
    while any(child.is_running() for child in children) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [child for child in children if child.is_running()]


def test_calls_in_flight_at_ctrl_c_are_answered(served: Served):
    process, port, metrics_port, _ = served
    image = classifier_pb2.Image(raw=classifier_pb2.RawImage(data=bytes(28 * 28), shape=(28, 28)))
    request = classifier_pb2.ClassifyRequest(images=[image] * 1024)
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_retries", 0)]) as channel:
        stub: Any = classifier_pb2_grpc.ClassifierStub(channel)
        calls = [stub.Classify.future(request, timeout=60) for _ in range(IN_FLIGHT)]
        until = time.monotonic() + 20
        while in_flight(metrics_port) < IN_FLIGHT and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert any(line.startswith("draining") for line in process.stdout)
        assert not all(call.done() for call in calls)
        assert [len(call.result().results) for call in calls] == [1024] * IN_FLIGHT
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint


@pytest.mark.parametrize("registry", ["of another task", "of nothing"])
def test_a_task_without_a_champion_is_one_sentence_with_the_way_out_before_ray_is_started(
    folder: Path, tmp_path: Path, registry: str
):
    where = folder if registry == "of another task" else tmp_path
    process = eagerly(where, "serve", "sentiment", "--port", "0", "--metrics-port", "0")
    seen = set()
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            seen |= {child.name() for child in psutil.Process(process.pid).children(recursive=True)}
        time.sleep(0.05)
    _, complaint = process.communicate()
    assert process.returncode == 2
    assert f"no champion for sentiment in sqlite:///{where}/mlflow.db; `eagerly train sentiment`" in complaint
    assert len(complaint.splitlines()) == 1
    assert seen and not seen & {"raylet", "gcs_server"}
    assert not (tmp_path / "mlflow.db").exists()


def test_a_corrupt_artifact_in_the_registry_is_refused_and_not_stored(folder: Path, tmp_path: Path):
    (weights,) = (folder / "mlruns").rglob("model.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    fetched = subprocess.run(
        [sys.executable, "-m", "services.watcher", "--home", str(tmp_path), "--once", "classifier"],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    weights.write_bytes(content)
    assert fetched.returncode == 2, fetched.stderr
    assert "model.safetensors" in fetched.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
