"""A release from install to uninstall, with the real operator, in a namespace where `restricted` is enforced."""

import json
import time

import pytest
import yaml
from charts import CHART, Manifest
from planes import Plane, eventually

SPACE = "eagerly"
SERVICES = {"classifier": 9001, "sentiment": 9002, "recommender": 9003}


@pytest.fixture(scope="module")
def release(plane: Plane) -> Plane:
    """The defaults, installed with `--wait`."""
    plane.add_disks()
    plane.namespace(SPACE)
    began = time.monotonic()
    output = plane.run("helm", "install", "eagerly", str(CHART), "-n", SPACE, "--wait", "--timeout", "200s")
    assert output.returncode == 0, output.stderr
    print(f"helm install --wait of the defaults took {time.monotonic() - began:.0f} s")
    return plane


def pods(plane: Plane, selector: str = "app.kubernetes.io/instance=eagerly") -> list[Manifest]:
    found = plane.get("pods", SPACE, "-l", selector)
    return [one for one in found if "deletionTimestamp" not in one["metadata"]]


def test_the_rayservice_becomes_ready(release: Plane):
    ready = eventually(
        lambda: (
            release.kubectl(
                *("get", "rayservice", "eagerly-serving", "-n", SPACE),
                *("-o", 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'),
            )
            == "True"
        )
    )
    assert ready


def test_no_pod_was_refused(release: Plane):
    events = release.get("events", SPACE)
    assert [one["message"] for one in events if one["reason"] == "FailedCreate" or "violates" in one["message"]] == []


def test_every_service_got_its_worker_pods(release: Plane):
    for group in SERVICES:
        assert len(pods(release, f"ray.io/group={group},app.kubernetes.io/component=serving")) == 1


def test_the_operator_kept_the_probe_and_added_its_liveness_probe(release: Plane):
    for pod in pods(release, "ray.io/node-type=worker,app.kubernetes.io/component=serving"):
        (container,) = pod["spec"]["containers"]
        assert container["readinessProbe"]["grpc"]["port"] == 9100
        assert container["livenessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365, "scheme": "HTTP"}
        assert "-/healthz" not in yaml.safe_dump(pod)
        names = {port["name"]: port["containerPort"] for port in container["ports"]}
        group = pod["metadata"]["labels"]["ray.io/group"]
        assert names == {"grpc": SERVICES[group], "probe": 9100, "eagerly-metrics": 9090, "metrics": 8080}


def test_every_container_of_the_operators_is_restricted_sized_and_has_rays_token(release: Plane):
    made = [one for one in pods(release) if "ray.io/cluster" in one["metadata"]["labels"]]
    assert len(made) == 5, "two heads and a worker a service"
    for pod in made:
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, container["name"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), container["name"]
            variables = {one["name"]: one for one in container["env"]}
            assert variables["RAY_AUTH_MODE"]["value"] == "token"
            assert "secretKeyRef" in variables["RAY_AUTH_TOKEN"]["valueFrom"]


def test_only_the_autoscaler_sees_a_token_of_the_kubernetes_api(release: Plane):
    for pod in pods(release, "ray.io/cluster"):
        for container in pod["spec"]["containers"]:
            paths = [one["mountPath"] for one in container.get("volumeMounts", [])]
            has = any(path.startswith("/var/run/secrets/kubernetes.io") for path in paths)
            assert has == (container["name"] == "autoscaler"), container["name"]


def test_every_service_has_endpoints_on_its_ports(release: Plane):
    def bare() -> list[str]:
        slices = release.get("endpointslices", SPACE)
        full = {one["metadata"]["labels"]["kubernetes.io/service-name"] for one in slices if one.get("endpoints")}
        return sorted({one["metadata"]["name"] for one in release.get("services", SPACE)} - full)

    assert eventually(lambda: not bare()), bare()


def test_the_operators_serve_service_carries_the_grpc_ports_and_no_other(release: Plane):
    (service,) = [
        one for one in release.get("services", SPACE) if one["metadata"]["name"] == "eagerly-serving-serve-svc"
    ]
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == SERVICES


def test_a_rayjob_from_the_template_runs_to_its_end(release: Plane):
    (held,) = [one for one in release.get("configmaps", SPACE) if one["metadata"]["name"] == "eagerly-rayjob"]
    job = yaml.safe_load(held["data"]["rayjob.json"])
    job["metadata"]["generateName"] += "sentiment-"
    job["spec"]["entrypoint"] = job["spec"]["entrypoint"].replace("train ", "train sentiment ", 1)
    release.kubectl("create", "-f", "-", stdin=yaml.safe_dump(job))

    def status() -> str:
        return release.get("rayjobs", SPACE)[0].get("status", {}).get("jobStatus", "")

    assert eventually(lambda: status() == "SUCCEEDED", 90), release.get("rayjobs", SPACE)[0].get("status")
    (submitter,) = release.get("jobs", SPACE)
    pod = submitter["spec"]["template"]["spec"]
    assert "ray job submit" in pod["containers"][0]["args"][0]
    assert "eagerly train sentiment --workers 1" in pod["containers"][0]["args"][0]
    assert {one["name"] for one in pod["containers"][0]["env"]} >= {"RAY_AUTH_TOKEN", "RAY_AUTH_MODE"}


def test_an_upgrade_leaves_what_rays_autoscaler_has_made_of_training(release: Plane):
    path = "/spec/workerGroupSpecs/0"
    patch = [
        {"op": "replace", "path": f"{path}/replicas", "value": 1},
        {"op": "add", "path": f"{path}/scaleStrategy", "value": {"workersToDelete": ["gone"]}},
    ]
    target = ("rayclusters.ray.io", "eagerly-training", "-n", SPACE, "--field-manager", "autoscaler")
    release.kubectl("patch", *target, "--type", "json", "-p", json.dumps(patch))
    output = release.run("helm", "upgrade", "eagerly", str(CHART), "-n", SPACE, "--set", "tracking.workers=3")
    assert output.returncode == 0, output.stderr
    (cluster,) = [one for one in release.get("rayclusters", SPACE) if one["metadata"]["name"] == "eagerly-training"]
    assert cluster["spec"]["workerGroupSpecs"][0]["replicas"] == 1


def test_budgets_are_counted(release: Plane):
    values = "serving: {oldPodsSeconds: 5, services: {sentiment: {minReplicas: 2, maxReplicas: 3}}}"
    words = ["upgrade", "eagerly", str(CHART), "-n", SPACE, "--wait", "--timeout", "200s", "--values", "-"]
    output = release.run("helm", *words, stdin=values)
    assert output.returncode == 0, output.stderr

    def counted() -> bool:
        (budget,) = release.get("poddisruptionbudgets", SPACE)
        return budget["status"].get("expectedPods") == 2 and budget["status"]["disruptionsAllowed"] == 1

    assert eventually(counted, 180), release.get("poddisruptionbudgets", SPACE)


def test_a_changed_image_makes_a_second_cluster_and_the_services_select_both(release: Plane):
    before = {one["metadata"]["name"] for one in pods(release, "app.kubernetes.io/component=serving")}
    words = ["upgrade", "eagerly", str(CHART), "-n", SPACE, "--force-conflicts", "--values", "-"]
    output = release.run("helm", *words, stdin="{image: {tag: 0.1.1}, serving: {oldPodsSeconds: 15}}")
    assert output.returncode == 0, output.stderr

    def both() -> bool:
        slices = release.get("endpointslices", SPACE, "-l", "kubernetes.io/service-name=eagerly-sentiment")
        named = {one["targetRef"]["name"] for part in slices for one in part.get("endpoints") or []}
        return bool(named & before) and bool(named - before)

    assert eventually(both, 90), "old and new Pods behind one Service"

    def images() -> set[str]:
        return {one["spec"]["containers"][0]["image"] for one in pods(release, "app.kubernetes.io/component=serving")}

    assert eventually(lambda: images() == {"eagerly-serve:0.1.1"}, 150), images()


def test_a_rollback_goes_back(release: Plane):
    output = release.run("helm", "rollback", "eagerly", "1", "-n", SPACE, "--force-conflicts")
    assert output.returncode == 0, output.stderr
    (service,) = release.get("rayservices", SPACE)
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert group["template"]["spec"]["containers"][0]["image"] == "eagerly-serve:0.1.0"


def test_an_uninstall_leaves_the_volumes_with_data_and_no_pod(release: Plane):
    output = release.run("helm", "uninstall", "eagerly", "-n", SPACE, "--wait", "--timeout", "200s")
    assert output.returncode == 0, output.stderr
    assert eventually(lambda: not [one for one in pods(release) if "ray.io/cluster" in one["metadata"]["labels"]], 90)
    claims = {one["metadata"]["name"] for one in release.get("persistentvolumeclaims", SPACE)}
    assert claims == {"eagerly-artifacts", "data-eagerly-database-0"}
