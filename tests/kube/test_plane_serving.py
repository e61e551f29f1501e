"""End to end, short of containers: the operator deploys the chart's applications into a real Ray cluster.

The chart's ports are those of every address of the machine, so this asks for a network of its own:

    unshare -n tests/kube/alone.sh make test-kube
"""

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from charts import CHART, ROOT
from planes import Plane, control_plane, eventually

from eagerly.client import CallError, Client, Raw

DASHBOARD = "127.0.0.1:8265"
VALUES = """
serving:
  autoscaling: false
  services:
    classifier: {maxReplicas: 1}
    sentiment: {enabled: false}
    recommender: {enabled: false}
security:
  tls: {source: none}
  allowPlaintext: true
  tokens: {source: none}
  allowAnonymous: true
  rayTokens: false
training: {enabled: false}
tracking: {enabled: false, uri: "http://tracking.example.org"}
"""
REGISTER = """
import pathlib, sys
from benchmarks.serving import convnet
from pipelines import registry, tracking
stored = convnet(pathlib.Path(sys.argv[1]))
tracker = tracking.Tracker("classifier", "test")
source = tracker.finish({}, pathlib.Path(stored.folder))
registry.register("classifier", source, tracker.run_id, stored.digest, {"accuracy": 1.0}, "accuracy", "always")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the chart sets for its Ray containers, with folders of this machine."""
    if os.environ.get("EAGERLY_END_TO_END") != "1":
        pytest.skip("no control plane: EAGERLY_END_TO_END=1 gives it a real Ray cluster")
    folder = tmp_path_factory.mktemp("ray")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    program = "from pipelines import registry; registry.names()"  # makes the tables, before two processes would
    command = [sys.executable, "-W", "ignore", "-c", program]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "MLFLOW_TRACKING_URI": store}, check=True, capture_output=True)
    kept = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EAGERLY_HOME": str(folder / "home"),
        "MLFLOW_TRACKING_URI": store,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }


@pytest.fixture(scope="module")
def ray(environment: dict[str, str]) -> Iterator[None]:
    """A Ray cluster of one node that has the resource of the classifier's worker group."""
    start = ["ray", "start", "--head", "--dashboard-host", "127.0.0.1", "--num-cpus", "4"]
    start += ["--resources", '{"classifier": 1}', "--node-ip-address", "127.0.0.1", "--block"]
    temporary = Path(tempfile.gettempdir()) / f"ray-{os.getpid()}"
    process = subprocess.Popen([*start, "--temp-dir", str(temporary)], env=environment, start_new_session=True)
    try:
        assert eventually(_dashboard_answers, 120), "the dashboard of Ray does not answer"
        yield
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def release(ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """The chart, installed on a control plane whose operator talks to that cluster."""
    scripts = Path(os.environ.get("EAGERLY_KUBE") or ROOT.parent / "shared" / "kube")
    with control_plane(scripts, tmp_path_factory.mktemp("plane"), DASHBOARD) as plane:
        plane.namespace("eagerly")
        output = plane.run("helm", "install", "eagerly", str(CHART), "-n", "eagerly", "--values", "-", stdin=VALUES)
        assert output.returncode == 0, output.stderr
        yield plane


def _dashboard_answers() -> bool:
    try:
        with urllib.request.urlopen(f"http://{DASHBOARD}/api/serve/applications/", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def ready(plane: Plane) -> str:
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return plane.kubectl("get", "rayservice", "eagerly-serving", "-n", "eagerly", "-o", f"jsonpath={path}")


def applications(plane: Plane) -> dict[str, str]:
    (service,) = plane.get("rayservices", "eagerly")
    active, pending = (service["status"].get(key, {}) for key in ("activeServiceStatus", "pendingServiceStatus"))
    found = active.get("applicationStatuses") or pending.get("applicationStatuses") or {}
    return {name: one["status"] for name, one in found.items()}


def test_without_a_champion_the_service_waits_and_is_not_ready(release: Plane):
    assert eventually(lambda: applications(release) == {"classifier": "DEPLOYING"}, 120), applications(release)
    assert ready(release) != "True"
    with Client("127.0.0.1:9001", timeout_s=2, wait_for_ready=False) as client, pytest.raises(CallError):
        client.healthy()


def test_with_a_champion_it_becomes_ready_and_answers(release: Plane, environment: dict[str, str], tmp_path: Path):
    command = [sys.executable, "-W", "ignore", "-c", REGISTER, str(tmp_path / "convnet")]
    registered = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert registered.returncode == 0, registered.stderr
    assert eventually(lambda: applications(release) == {"classifier": "RUNNING"}, 120), applications(release)
    assert eventually(lambda: ready(release) == "True", 60)
    with Client("127.0.0.1:9100", timeout_s=20) as probe:
        assert probe.healthy(), "the port that the kubelet asks"
    with Client("127.0.0.1:9001", timeout_s=20) as client:
        (result,) = client.classify([Raw(bytes(28 * 28), (28, 28))])
    assert (result.provenance.model, result.provenance.version) == ("classifier", "1")
    with urllib.request.urlopen("http://127.0.0.1:9090/metrics", timeout=20) as reply:
        assert "eagerly_model_info{" in reply.read().decode()


def test_a_new_champion_is_served_without_an_upgrade(release: Plane, environment: dict[str, str], tmp_path: Path):
    command = [sys.executable, "-W", "ignore", "-c", REGISTER, str(tmp_path / "convnet")]
    subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)

    def version() -> str:
        with Client("127.0.0.1:9001", timeout_s=20) as client:
            return client.classify([Raw(bytes(28 * 28), (28, 28))])[0].provenance.version

    assert eventually(lambda: version() == "2", 60)
    assert applications(release) == {"classifier": "RUNNING"}
