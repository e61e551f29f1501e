"""The umbrella chart on a control plane: one release from nothing to Ready, and to nothing again."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml
from charts import CHART, ROOT
from planes import Plane, eventually
from platforms import CRDS, Platform, built, chart_repository

SPACE, RELEASE = "platform", "eagerly-all"
PROGRAM = ROOT / "helm" / "platform" / "files" / "delete_ray.py"
FOREIGN = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "held", "labels": {"app.kubernetes.io/instance": "other"}, "finalizers": ["example.org/held"]},
    "spec": {"entrypoint": "true", "clusterSelector": {"ray.io/cluster": "nowhere"}},
}
"""A job of another release, that nobody finishes."""


@pytest.fixture(scope="module")
def platform(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with chart_repository(tmp_path_factory.mktemp("repository")) as address:
        yield built(tmp_path_factory.mktemp("platform"), address)


@pytest.fixture(scope="module")
def release(plane: Plane, platform: Platform) -> Plane:
    """The defaults, installed."""
    assert CRDS.is_dir()
    plane.add_disks()
    plane.namespace(SPACE)
    words = ("install", RELEASE, str(platform.chart), "-n", SPACE, "--wait", "--timeout", "200s")
    output = plane.run("helm", *words)
    assert output.returncode == 0, output.stderr
    return plane


@pytest.fixture(scope="module")
def account(release: Plane, platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service account of the uninstall hook, with what the chart lets it do, as a Pod sees it."""
    words = ("template", RELEASE, str(platform.chart), "-n", SPACE, "--show-only", "templates/uninstall.yaml")
    found = yaml.safe_load_all(release.run("helm", *words, "--kube-version", "1.37.0").stdout)
    rights = [one for one in found if one and one["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    release.kubectl("apply", "-n", SPACE, "-f", "-", stdin=yaml.safe_dump_all(rights))
    folder = tmp_path_factory.mktemp("account")
    (folder / "token").write_text(release.kubectl("create", "token", f"{RELEASE}-uninstall-hook", "-n", SPACE))
    (folder / "ca.crt").write_bytes(Path(_cluster(release)["certificate-authority"]).read_bytes())
    return folder


def _cluster(plane: Plane) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load(plane.kubeconfig.read_text())["clusters"][0]["cluster"]
    return found


def program(plane: Plane, account: Path, name: str, limit: str) -> "subprocess.CompletedProcess[str]":
    """Runs the hook's program for a release, with the hook's rights; limit: seconds."""
    server = urlparse(_cluster(plane)["server"])
    place = {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port)}
    environment = {**os.environ, **place, "SERVICE_ACCOUNT": str(account), "LIMIT_S": limit}
    command = [sys.executable, str(PROGRAM), SPACE, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_rayservice_becomes_ready_and_the_operator_runs(release: Plane):
    def ready() -> bool:
        (service,) = release.get("rayservices", SPACE)
        conditions = {one["type"]: one["status"] for one in service.get("status", {}).get("conditions", [])}
        return conditions.get("Ready") == "True"

    assert eventually(ready), release.get("rayservices", SPACE)[0].get("status")
    running = {one["metadata"]["name"]: one["status"].get("readyReplicas") for one in release.get("deployments", SPACE)}
    assert running == {"kuberay-operator": 1, f"{RELEASE}-tracking": 1}


def test_restricted_refused_nothing(release: Plane):
    messages = [one["message"] for one in release.get("events", SPACE) if one["reason"] == "FailedCreate"]
    assert messages == []


def test_the_heads_that_the_operator_makes_have_the_label_by_which_its_policy_finds_them(release: Plane):
    def components() -> set[str]:
        heads = release.get("pods", SPACE, "-l", "ray.io/node-type=head")
        return {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in heads}

    assert eventually(lambda: components() == {"serving-head", "training-head"}), components()


def test_a_release_of_eagerly_alone_becomes_one_with_the_operator(release: Plane, platform: Platform):
    space = release.namespace("moved")
    off = ("--set", "priorities.create=false")
    alone = release.run("helm", "install", "eagerly", str(CHART), "-n", space, *off)
    assert alone.returncode == 0, alone.stderr
    before = json.loads(release.kubectl("get", "rayservice", "eagerly-serving", "-n", space, "-o", "json"))
    off = ("--set", "eagerly.priorities.create=false")
    moved = release.run("helm", "upgrade", "eagerly", str(platform.chart), "-n", space, *off)
    assert moved.returncode == 0, moved.stderr
    after = json.loads(release.kubectl("get", "rayservice", "eagerly-serving", "-n", space, "-o", "json"))
    assert after["spec"] == before["spec"] and after["metadata"]["uid"] == before["metadata"]["uid"]
    assert "kuberay-operator" in release.kubectl("get", "deployments", "-n", space, "-o", "name")
    gone = release.run("helm", "uninstall", "eagerly", "-n", space, "--wait", "--timeout", "100s")
    assert gone.returncode == 0, gone.stderr


def test_the_hook_says_what_nobody_finishes_and_leaves_others_objects(release: Plane, account: Path):
    release.kubectl("create", "-n", SPACE, "-f", "-", stdin=yaml.safe_dump(FOREIGN))
    output = program(release, account, "other", "3")
    assert output.returncode == 1
    assert "after 3 s there still: rayjobs/held; is the KubeRay operator running?" in output.stdout
    assert len(release.get("rayservices", SPACE)) == 1
    release.kubectl("patch", "rayjob", "held", "-n", SPACE, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


def test_the_hook_ends_what_has_finalizers_and_then_the_release_goes(release: Plane, account: Path):
    output = program(release, account, RELEASE, "120")
    assert output.returncode == 0, output.stdout + output.stderr
    assert "nothing of Ray's is left" in output.stdout
    for kind in ("rayjobs", "rayservices", "rayclusters"):
        assert release.get(kind, SPACE) == [], kind
    gone = release.run("helm", "uninstall", RELEASE, "-n", SPACE, "--wait", "--timeout", "100s")
    assert gone.returncode == 0, gone.stderr

    def pods() -> list[str]:
        return [one["metadata"]["name"] for one in release.get("pods", SPACE)]

    assert eventually(lambda: not pods(), 60), pods()
    assert release.get("deployments", SPACE) == []
