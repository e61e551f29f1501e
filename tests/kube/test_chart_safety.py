"""What every Pod and object of every combination must be: restricted, sized, pinned, without secrets in the open."""

import re

import pytest
import yaml
from charts import NAMES, Manifest, containers, of_kind, pod_templates, rendered, template

pytestmark = pytest.mark.usefixtures("chart_tools")
ALL = ["defaults", *NAMES]
WITH_TOKEN = {"Job/eagerly-secrets-hook", "CronJob/eagerly-retraining"}
"""Pods that ask the Kubernetes API, and so have a token of their service account."""


@pytest.mark.parametrize("name", ALL)
def test_every_container_asks_for_cpu_and_memory_and_is_limited_in_memory(name: str):
    lacking = [
        (title, container["name"])
        for title, pod in pod_templates(rendered(name)).items()
        for container in containers(pod)
        if set(container.get("resources", {}).get("requests", {})) < {"cpu", "memory"}
        or "memory" not in container["resources"].get("limits", {})
    ]
    assert lacking == []


@pytest.mark.parametrize("name", ALL)
def test_every_image_has_a_version_that_is_not_latest(name: str):
    images = {one["image"] for pod in pod_templates(rendered(name)).values() for one in containers(pod)}
    assert images
    assert [image for image in images if not re.search(r":[\w.-]+$", image) or image.endswith(":latest")] == []


@pytest.mark.parametrize("name", ALL)
def test_every_container_is_restricted_and_its_root_is_read_only(name: str):
    for title, pod in pod_templates(rendered(name)).items():
        around = pod["spec"]["securityContext"]
        assert around["runAsNonRoot"] is True and around["runAsUser"] > 0, title
        assert around["seccompProfile"] == {"type": "RuntimeDefault"}, title
        assert not any(pod["spec"].get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), title
        for container in containers(pod):
            inside = container["securityContext"]
            assert inside["allowPrivilegeEscalation"] is False, title
            assert inside["readOnlyRootFilesystem"] is True, title
            assert inside["capabilities"] == {"drop": ["ALL"]}, title


@pytest.mark.parametrize("name", ALL)
def test_no_pod_mounts_the_key_of_the_authority_that_signs_the_generated_certificate(name: str):
    volumes = [one for pod in pod_templates(rendered(name)).values() for one in pod["spec"].get("volumes", [])]
    chosen = [one["secret"] for one in volumes if one.get("secret", {}).get("secretName") == "eagerly-tls"]
    assert chosen or name in ("tls-auth", "gateway", "plaintext")
    for secret in chosen:
        assert {item["key"] for item in secret["items"]} <= {"tls.crt", "tls.key", "ca.crt"}


@pytest.mark.parametrize("name", ALL)
def test_only_pods_that_ask_the_kubernetes_api_have_a_token_for_it(name: str):
    pods = pod_templates(rendered(name))
    assert {title for title, pod in pods.items() if pod["spec"]["automountServiceAccountToken"]} <= WITH_TOKEN
    for title, pod in pods.items():
        tokens = [volume for volume in pod["spec"].get("volumes", []) if "projected" in volume]
        mounted = [one for container in containers(pod) for one in container.get("volumeMounts", [])]
        assert not tokens or title.endswith("/head")
        assert not {one["name"] for one in tokens} & {one["name"] for one in mounted}, "the autoscaler alone mounts it"


@pytest.mark.parametrize("name", ALL)
def test_no_template_renders_a_secret(name: str):
    manifests = rendered(name)
    assert of_kind(manifests, "Secret") == []
    for title, pod in pod_templates(manifests).items():
        for container in containers(pod):
            for variable in container.get("env", []):
                if re.search("PASSWORD(?!_FILE)|TOKEN|KEY|SECRET_|BACKEND_STORE", variable["name"]):
                    assert "value" not in variable or variable["value"].startswith("/"), (title, variable["name"])
    text = yaml.safe_dump_all(one for one in manifests if one["kind"] != "ConfigMap")
    assert not re.search(r"://[^/\s:@]+:[^/\s@]+@|-----BEGIN|eagerly_[\w-]{43}\b", text)


def test_config_maps_hold_programs_and_the_job_and_nothing_secret():
    for name in ALL:
        for one in of_kind(rendered(name), "ConfigMap"):
            assert all(key.endswith((".py", ".json")) for key in one["data"])
            assert "-----BEGIN" not in yaml.safe_dump(one)


def test_rendering_twice_gives_the_same_so_that_nothing_is_drawn_in_a_template():
    assert template().stdout == template().stdout


@pytest.mark.parametrize("name", ALL)
def test_serving_goes_before_training(name: str):
    values = {one["metadata"]["name"]: one["value"] for one in of_kind(rendered(name), "PriorityClass")}
    if values:
        assert values["eagerly-serving"] > 0 > values["eagerly-training"]
    pods = pod_templates(rendered(name))
    classes = {title: pod["spec"].get("priorityClassName") for title, pod in pods.items()}
    serving = {classes[title] for title in classes if title.startswith("RayService")}
    training = {classes[title] for title in classes if title.startswith("RayCluster")}
    assert len(serving) <= 1 and not serving & training


@pytest.mark.parametrize("name", ALL)
def test_ray_itself_asks_for_a_token(name: str):
    manifests = rendered(name)
    specs = [one["spec"] for one in of_kind(manifests, "RayCluster")]
    specs += [one["spec"]["rayClusterConfig"] for one in of_kind(manifests, "RayService")]
    assert specs or name == "nothing"
    assert all(spec["authOptions"] == {"mode": "token"} for spec in specs)


@pytest.mark.parametrize("name", ALL)
def test_plaintext_and_anonymous_are_only_where_the_values_say_so(name: str):
    for service in of_kind(rendered(name), "RayService"):
        for application in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]:
            options = application["args"]["options"]
            locked = "tls_cert" in options and bool({"tokens", "jwks", "client_ca"} & set(options))
            assert locked != (name == "plaintext")
            assert options.get("insecure", False) == (name == "plaintext")


@pytest.mark.parametrize("name", ALL)
def test_budgets_count_pods_because_the_operators_pods_have_no_scale(name: str):
    for budget in of_kind(rendered(name), "PodDisruptionBudget"):
        assert isinstance(budget["spec"]["minAvailable"], int)
        assert "maxUnavailable" not in budget["spec"]


@pytest.mark.parametrize("name", ALL)
def test_every_volume_that_is_mounted_is_there(name: str):
    given = {"shared-mem", "ray-logs"}
    for title, pod in pod_templates(rendered(name)).items():
        there = {one["name"] for one in pod["spec"].get("volumes", [])} | _claimed(title, name)
        for container in containers(pod):
            assert {one["name"] for one in container.get("volumeMounts", [])} <= there | given, title


@pytest.mark.parametrize("name", ALL)
def test_every_service_selects_pods_that_have_its_port(name: str):
    manifests = rendered(name)
    pods = pod_templates(manifests)
    for service in of_kind(manifests, "Service"):
        selector = dict(service["spec"]["selector"])
        group = selector.pop("ray.io/group", None)
        chosen = [
            pod
            for title, pod in pods.items()
            if selector.items() <= pod["metadata"]["labels"].items() and (not group or title.endswith(f"/{group}"))
        ]
        assert len(chosen) == 1, service["metadata"]["name"]
        ports = {port["name"] for one in chosen[0]["spec"]["containers"] for port in one["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("name", ALL)
def test_each_service_has_a_headless_twin(name: str):
    services = {one["metadata"]["name"]: one["spec"] for one in of_kind(rendered(name), "Service")}
    twins = [one for one in services if one.endswith("-headless")]
    assert bool(twins) == bool(of_kind(rendered(name), "RayService"))
    for twin in twins:
        assert services[twin]["clusterIP"] == "None"
        assert services[twin]["selector"] == services[twin.removesuffix("-headless")]["selector"]


def _claimed(title: str, name: str) -> set[str]:
    kind, _, called = title.partition("/")
    found: list[Manifest] = [one for one in of_kind(rendered(name), kind) if one["metadata"]["name"] == called]
    return {claim["metadata"]["name"] for one in found for claim in one.get("spec", {}).get("volumeClaimTemplates", [])}
