"""What the tests of the chart share: the tools, and a control plane on loopback."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from charts import CHART, MISSING, ROOT, program
from planes import PORTS, Plane, control_plane, eventually

HERE = Path(__file__).parent
SCRIPTS = Path(os.environ.get("EAGERLY_KUBE") or ROOT.parent / "shared" / "kube")
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
tracking: {enabled: false, uri: "https://tracking.example.org"}
"""


@pytest.fixture(scope="session")
def chart_tools() -> None:
    """Skips where Helm and kubeconform are not."""
    if not all(program(name).exists() for name in ("helm", "kubeconform")):
        pytest.skip(MISSING)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A control plane with the operator, whose Ray dashboards say yes to everything."""
    if os.environ.get("EAGERLY_CONTROL_PLANE") != "1":
        pytest.skip("no control plane: `make test-kube` starts one")
    if not (SCRIPTS / "up.sh").exists() or not program("kube").exists():
        pytest.skip("no control plane: EAGERLY_KUBE names no folder with up.sh, or `make check-tools` has not run")
    stub = subprocess.Popen(
        [sys.executable, "-u", str(HERE / "dashboard.py")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert stub.stdout is not None
    try:
        dashboard = stub.stdout.readline().strip()
        with control_plane(SCRIPTS, tmp_path_factory.mktemp("plane"), dashboard, PORTS[0]) as plane:
            yield plane
    finally:
        stub.kill()
        stub.communicate()


@pytest.fixture(scope="session")
def ray_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
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


@pytest.fixture(scope="session")
def real_ray(ray_environment: dict[str, str]) -> Iterator[None]:
    """A Ray cluster with the resources of two Pods of the classifier's worker group, and of one of the training's."""
    head = ["--head", "--dashboard-host", "127.0.0.1", "--num-cpus", "4", "--node-ip-address", "127.0.0.1"]
    head += ["--temp-dir", str(Path(tempfile.gettempdir()) / f"ray-{os.getpid()}")]
    surge = ["--address", "127.0.0.1:6379", "--num-cpus", "1", "--dashboard-agent-listen-port", "52366"]
    with (
        _node(ray_environment, *head, "--resources", '{"classifier": 1, "training-cpu": 1000}'),
        _node(ray_environment, *surge, "--resources", '{"classifier": 1}'),
    ):
        yield


@contextlib.contextmanager
def _node(environment: dict[str, str], *words: str) -> Iterator[None]:
    """Starts a node of a Ray cluster, and waits for the dashboard of its head."""
    command = ["ray", "start", "--block", *words]
    home = Path(environment["EAGERLY_HOME"])  # the working folder of the chart's Pods
    home.mkdir(exist_ok=True)
    process = subprocess.Popen(command, env=environment, cwd=home, start_new_session=True)
    try:
        assert eventually(_dashboard_answers, 120), "the dashboard of Ray does not answer"
        yield
    finally:
        process.terminate()
        process.wait(60)
        if "--temp-dir" in words:
            shutil.rmtree(words[words.index("--temp-dir") + 1], ignore_errors=True)


@pytest.fixture(scope="session")
def deployed(real_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """The chart in namespace `eagerly`, on a control plane whose operator talks to that cluster."""
    with control_plane(SCRIPTS, tmp_path_factory.mktemp("plane"), DASHBOARD, PORTS[1]) as plane:
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
