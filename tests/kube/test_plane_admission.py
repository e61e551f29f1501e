"""The real API server takes what the chart renders, strictly, and `restricted` refuses none of its Pods."""

import pytest
import yaml
from charts import CHART, NAMES, pod_templates, rendered
from planes import Plane


@pytest.fixture(scope="module")
def space(plane: Plane) -> str:
    """A restricted namespace."""
    return plane.namespace("admission")


@pytest.fixture(scope="module")
def foreign(plane: Plane) -> bool:
    """Whether the API server knows the kinds of other projects."""
    return plane.add_foreign_kinds()


@pytest.mark.parametrize("name", ["defaults", *NAMES])
def test_the_api_server_takes_every_object_strictly(plane: Plane, space: str, foreign: bool, name: str):
    manifests = [*rendered(name)]
    if not foreign:
        known = ("Certificate", "GRPCRoute", "BackendTLSPolicy", "PodMonitor", "PrometheusRule")
        manifests = [one for one in manifests if one["kind"] not in known]
    jobs = [yaml.safe_load(one["data"]["rayjob.json"]) for one in manifests if "rayjob.json" in one.get("data", {})]
    for job in jobs:
        job["metadata"]["namespace"] = space
        job["metadata"]["generateName"] += "sentiment-"
    for one in manifests:
        for subject in one.get("subjects", []):
            subject["namespace"] = space
    text = yaml.safe_dump_all([*manifests, *jobs])
    output = plane.run("kubectl", "create", "-n", space, "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
    assert output.returncode == 0, output.stderr
    assert len(output.stdout.splitlines()) == len(manifests) + len(jobs)
    assert "Warning" not in output.stderr, "of Pod Security, or of something deprecated"


def test_an_unknown_field_would_have_been_refused(plane: Plane, space: str):
    (service,) = [one for one in rendered() if one["kind"] == "RayService"]
    text = yaml.safe_dump({**service, "spec": {**service["spec"], "serveConfigV3": ""}})
    output = plane.run("kubectl", "create", "-n", space, "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
    assert "serveConfigV3" in output.stderr


@pytest.mark.parametrize("name", ["defaults", *NAMES])
def test_restricted_takes_every_pod_that_the_chart_describes(plane: Plane, space: str, name: str):
    pods = []
    for title, template in pod_templates(rendered(name)).items():
        called = title.lower().replace("/", "-")[:60]
        spec = {key: value for key, value in template["spec"].items() if key != "priorityClassName"}
        spec["serviceAccountName"] = "default"
        mounted = {one["name"] for container in spec["containers"] for one in container["volumeMounts"]}
        missing = mounted - {one["name"] for one in spec["volumes"]}  # those of a StatefulSet's claims
        spec["volumes"] = [*spec["volumes"], *({"name": one, "emptyDir": {}} for one in sorted(missing))]
        metadata = {"name": called, "labels": template["metadata"]["labels"]}
        pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    text = yaml.safe_dump_all(pods)
    output = plane.run("kubectl", "create", "-n", space, "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
    assert output.returncode == 0, output.stderr


def test_restricted_refuses_the_same_pod_as_root(plane: Plane, space: str):
    template = pod_templates(rendered())["Deployment/eagerly-tracking"]
    spec = {
        key: value for key, value in template["spec"].items() if key not in ("priorityClassName", "securityContext")
    }
    spec["containers"] = [{**spec["containers"][0], "securityContext": {"runAsUser": 0}}]
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": spec})
    output = plane.run("kubectl", "create", "-n", space, "--dry-run=server", "-f", "-", stdin=text)
    assert "violates PodSecurity" in output.stderr


def test_the_chart_itself_can_be_packed(plane: Plane, tmp_path):
    output = plane.run("helm", "package", str(CHART), "--destination", str(tmp_path))
    assert output.returncode == 0, output.stderr
