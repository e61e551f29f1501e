"""End to end, short of containers: RayJobs that the operator brings to a real Ray cluster really train.

Its network is its own, as that of test_plane_serving.py is. No kubelet runs the Pod that submits a job, so the test
runs that Pod's command in the kubelet's place; a job in HTTPMode the operator submits by itself.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from charts import CHART, Manifest, tools
from planes import Plane, eventually

from eagerly.client import Client, Raw

SPACE = "eagerly"
NODE = "node-0"
pytestmark = pytest.mark.timeout(600)
FLAGS = ("--epochs", "2", "--promote", "always")
ADDRESS = "http://eagerly-training-head-svc.eagerly.svc.cluster.local:8265"
HERE = "http://127.0.0.1:8265"
TOLD = """
import json
from mlflow import MlflowClient
client = MlflowClient()
versions = client.search_model_versions("name='classifier'", order_by=["version_number DESC"])
newest = client.get_run(versions[0].run_id)
champion = client.get_model_version_by_alias("classifier", "champion").version
print(json.dumps({"version": str(versions[0].version), "champion": str(champion), "run": newest.info.run_id,
                  "status": newest.info.status, "metrics": newest.data.metrics}))
"""


@dataclass(frozen=True)
class Trained:
    """A RayJob that has ended, and what MLflow knows of the newest version of its model."""

    job: Manifest
    told: dict[str, Any]


def rayjob(plane: Plane, name: str) -> Manifest:
    (found,) = [one for one in plane.get("rayjobs", SPACE) if one["metadata"]["name"] == name]
    return found


def status(plane: Plane, name: str, key: str) -> str:
    found: str = rayjob(plane, name).get("status", {}).get(key, "")
    return found


def trained(plane: Plane, name: str, environment: dict[str, str]) -> Trained:
    """Waits for the end of a RayJob, and asks MLflow."""
    ended = ("Complete", "Failed")
    assert eventually(lambda: status(plane, name, "jobDeploymentStatus") in ended, 300), rayjob(plane, name)["status"]
    command = [sys.executable, "-W", "ignore", "-c", TOLD]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return Trained(rayjob(plane, name), json.loads(told.stdout))


@pytest.fixture
def no_node(deployed: Plane) -> Iterator[None]:
    """New Pods find no node, or kwok would say of the Pod that submits that it has ended before anything is run."""
    cluster = ("get", "raycluster", "eagerly-training", "-n", SPACE, "-o", "jsonpath={.status.state}")
    assert eventually(lambda: deployed.kubectl(*cluster) == "ready", 60), "the operator's own Pods come first"
    deployed.kubectl("cordon", NODE)
    yield
    deployed.kubectl("uncordon", NODE)


def submitter(plane: Plane, name: str) -> Manifest:
    """The Pod with which the operator submits a RayJob."""
    (pod,) = eventually(lambda: plane.get("pods", SPACE, "-l", f"job-name={name}"), 90)
    return pod


def play_kubelet(plane: Plane, pod: Manifest, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Runs the command of a Pod with its variables, and says to Kubernetes how it ended."""
    (container,) = pod["spec"]["containers"]
    words = [*container["command"], *(word.replace(ADDRESS, HERE) for word in container["args"])]
    assert ADDRESS in container["args"][0], "where the Pod would find the dashboard"
    own = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    done = subprocess.run(
        words, env={**environment, **own}, capture_output=True, text=True, check=False, timeout=300, cwd="/"
    )
    phase = json.dumps({"status": {"phase": "Failed" if done.returncode else "Succeeded"}})
    plane.kubectl("patch", "pod", pod["metadata"]["name"], "-n", SPACE, "--subresource=status", "-p", phase)
    return done


def test_what_submit_gives_to_kubernetes_trains_and_its_model_is_served(
    deployed: Plane, ray_environment: dict[str, str], no_node: None, tmp_path: Path
):
    reached = {**deployed.environment, "PATH": f"{tools() / 'bin'}:{ray_environment['PATH']}"}
    words = ["submit", "classifier", "--kubernetes", "--apply", "--name", "first", "--storage", str(tmp_path), *FLAGS]
    asked = [sys.executable, "-m", "eagerly", *words]
    said = subprocess.run(asked, env=reached, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    done = play_kubelet(deployed, submitter(deployed, "first"), ray_environment)
    assert done.returncode == 0, done.stdout + done.stderr
    first = trained(deployed, "first", ray_environment)
    assert first.job["status"]["jobStatus"] == "SUCCEEDED", first.job["status"]
    assert first.job["status"]["jobDeploymentStatus"] == "Complete"
    assert first.told["status"] == "FINISHED" and first.told["champion"] == first.told["version"]
    assert (tmp_path / "first" / "mlflow.json").is_file()

    def served() -> tuple[str, str]:
        with Client("127.0.0.1:9001", timeout_s=60) as client:
            provenance = client.classify([Raw(bytes(28 * 28), (28, 28))])[0].provenance
        return provenance.version, provenance.run_id

    expected = (first.told["version"], first.told["run"])
    assert eventually(lambda: served() == expected, 60), served()


def test_the_charts_own_rayjob_trains_where_the_operator_submits_it(deployed: Plane, ray_environment: dict[str, str]):
    (held,) = [one for one in deployed.get("configmaps", SPACE) if one["metadata"]["name"] == "eagerly-rayjob"]
    job = submit_jobs().job(held["data"]["rayjob.json"], "classifier", list(FLAGS))
    job["spec"]["submissionMode"] = "HTTPMode"
    for key in ("submitterConfig", "submitterPodTemplate"):  # there is no Pod that submits
        del job["spec"][key]
    name = deployed.kubectl("create", "-f", "-", "-o", "name", stdin=json.dumps(job)).strip().rpartition("/")[2]
    again = trained(deployed, name, ray_environment)
    assert again.job["status"]["jobStatus"] == "SUCCEEDED", again.job["status"]
    assert again.told["status"] == "FINISHED" and again.told["champion"] == again.told["version"]
    assert again.told["metrics"]["test/accuracy"] > 0.9, "two epochs on the digits"


def submit_jobs() -> Any:
    """The program of the retraining CronJob, which fills the template in."""
    spec = importlib.util.spec_from_file_location("submit_jobs", CHART / "files" / "submit_jobs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
