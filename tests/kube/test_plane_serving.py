"""End to end, short of containers: the operator deploys the chart's applications into a real Ray cluster.

The chart's ports are those of every address of the machine, so this asks for a network of its own:

    unshare -n tests/kube/alone.sh make test-kube
"""

import contextlib
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from charts import CHART
from planes import Plane, eventually

from eagerly.client import CallError, Client, Raw

IMAGE = Raw(bytes(28 * 28), (28, 28))
REGISTER = """
import pathlib, sys
from benchmarks.serving import convnet
from pipelines import registry, tracking
stored = convnet(pathlib.Path(sys.argv[1]))
tracker = tracking.Tracker("classifier", "test")
source = tracker.finish({}, pathlib.Path(stored.folder))
registry.register("classifier", source, tracker.run_id, stored.digest, {"accuracy": 1.0}, "accuracy", "always")
"""


def ready(plane: Plane) -> str:
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return plane.kubectl("get", "rayservice", "eagerly-serving", "-n", "eagerly", "-o", f"jsonpath={path}")


def applications(plane: Plane) -> dict[str, str]:
    (service,) = plane.get("rayservices", "eagerly")
    active, pending = (service["status"].get(key, {}) for key in ("activeServiceStatus", "pendingServiceStatus"))
    found = active.get("applicationStatuses") or pending.get("applicationStatuses") or {}
    return {name: one["status"] for name, one in found.items()}


def test_without_a_champion_the_service_waits_and_is_not_ready(deployed: Plane):
    assert eventually(lambda: applications(deployed) == {"classifier": "DEPLOYING"}, 120), applications(deployed)
    assert ready(deployed) != "True"
    with Client("127.0.0.1:9001", timeout_s=2, wait_for_ready=False) as client, pytest.raises(CallError):
        client.healthy()


def test_with_a_champion_it_becomes_ready_and_answers(deployed: Plane, ray_environment: dict[str, str], tmp_path: Path):
    command = [sys.executable, "-W", "ignore", "-c", REGISTER, str(tmp_path / "convnet")]
    registered = subprocess.run(command, env=ray_environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert registered.returncode == 0, registered.stderr
    assert eventually(lambda: applications(deployed) == {"classifier": "RUNNING"}, 120), applications(deployed)
    assert eventually(lambda: ready(deployed) == "True", 60)
    with Client("127.0.0.1:9100", timeout_s=20) as probe:
        assert probe.healthy(), "the port that the kubelet asks"
    with Client("127.0.0.1:9001", timeout_s=20) as client:
        (result,) = client.classify([IMAGE])
    assert (result.provenance.model, result.provenance.version) == ("classifier", "1")
    with urllib.request.urlopen("http://127.0.0.1:9090/metrics", timeout=20) as reply:
        assert "eagerly_model_info{" in reply.read().decode()


def test_a_new_champion_is_served_without_an_upgrade(deployed: Plane, ray_environment: dict[str, str], tmp_path: Path):
    command = [sys.executable, "-W", "ignore", "-c", REGISTER, str(tmp_path / "convnet")]
    subprocess.run(command, env=ray_environment, cwd=tmp_path, capture_output=True, check=True)

    def version() -> str:
        with Client("127.0.0.1:9001", timeout_s=20) as client:
            return client.classify([IMAGE])[0].provenance.version

    assert eventually(lambda: version() == "2", 60)
    assert applications(deployed) == {"classifier": "RUNNING"}


@contextlib.contextmanager
def calling() -> Iterator[list[str]]:
    """Calls all the time, over connections that are made anew now and then; yields how each call ended."""
    ended: list[str] = []
    enough = threading.Event()

    def call() -> None:
        while not enough.is_set():
            with Client("127.0.0.1:9001", timeout_s=20) as client:
                for _ in range(50):
                    try:
                        client.classify([IMAGE])
                    except CallError as error:
                        ended.append(str(error))
                    else:
                        ended.append("OK")

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield ended
    finally:
        enough.set()
        caller.join()


def most_items() -> int:
    """How many items of a call the replica that is met takes: 1 after the upgrade, 1024 before."""
    with Client("127.0.0.1:9001", timeout_s=20) as client:
        try:
            client.classify([IMAGE, IMAGE])
        except CallError as error:
            if error.code != "INVALID_ARGUMENT":
                raise
            return 1
    return 1024


def test_an_upgrade_replaces_the_replicas_under_calls_and_fails_none(deployed: Plane):
    assert most_items() == 1024
    words = ["upgrade", "eagerly", str(CHART), "-n", "eagerly", "--reuse-values", "--set", "serving.options.maxItems=1"]
    with calling() as ended:
        output = deployed.run("helm", *words)
        assert output.returncode == 0, output.stderr
        assert eventually(lambda: [most_items() for _ in range(20)] == [1] * 20, 120), "replicas of before still answer"
        assert eventually(lambda: applications(deployed) == {"classifier": "RUNNING"}, 60), applications(deployed)
    assert len(ended) > 200
    assert {one for one in ended if one != "OK"} == set()
