"""What leads into the release and looks at it: routes, notes, monitors, each pointing at something that is there."""

import re
import subprocess

import pytest
import yaml
from charts import CHART, Manifest, helm, of_kind, pod_templates, rendered, template
from policies import Place, Policies

pytestmark = pytest.mark.usefixtures("chart_tools")
HOST = "models.example.org"
TOGETHER = "serving: {layout: together}"
GRPC = {"eagerly.v1.Classifier", "eagerly.v1.Sentiment", "eagerly.v1.Recommender"}
OPEN_INFERENCE = "inference.GRPCInferenceService"


def together(name: str) -> list[Manifest]:
    output = template(TOGETHER, CHART / "ci" / f"{name}-values.yaml")
    assert output.returncode == 0, output.stderr
    return [one for one in yaml.safe_load_all(output.stdout) if one]


def ports(manifests: list[Manifest]) -> dict[str, dict[str, int]]:
    """The ports of each Service, by name."""
    return {
        one["metadata"]["name"]: {port["name"]: port["port"] for port in one["spec"]["ports"]}
        for one in of_kind(manifests, "Service")
    }


def test_the_gateway_routes_each_grpc_service_of_one_host_to_its_own_service():
    manifests = rendered("gateway")
    (route,) = of_kind(manifests, "GRPCRoute")
    assert route["spec"]["hostnames"] == [HOST]
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    led = {}
    for rule in route["spec"]["rules"]:
        (backend,) = rule["backendRefs"]
        assert backend["port"] == ports(manifests)[backend["name"]]["grpc"]
        led |= {match["method"]["service"]: backend["name"] for match in rule["matches"]}
    assert led == {one: f"eagerly-{one.rpartition('.')[2].lower()}" for one in GRPC}


def test_the_gateway_checks_each_service_by_a_name_that_its_certificate_has():
    manifests = rendered("gateway")
    (certificate,) = of_kind(manifests, "Certificate")
    policies = of_kind(manifests, "BackendTLSPolicy")
    targets = [target["name"] for one in policies for target in one["spec"]["targetRefs"]]
    assert sorted(targets) == ["eagerly-classifier", "eagerly-recommender", "eagerly-sentiment"]
    for one in policies:
        assert one["spec"]["validation"]["hostname"] in certificate["spec"]["dnsNames"]
        assert one["spec"]["validation"]["caCertificateRefs"][0]["name"] == "authority"
    assert HOST in certificate["spec"]["dnsNames"]


def test_the_ingress_routes_each_grpc_service_of_one_host_to_its_own_service():
    manifests = rendered("tls-auth")
    (ingress,) = of_kind(manifests, "Ingress")
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == HOST and ingress["spec"]["tls"][0]["hosts"] == [HOST]
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPCS"
    led = {path["path"]: path["backend"]["service"] for path in rule["http"]["paths"]}
    assert set(led) == {f"/{one}" for one in GRPC}
    assert all(one["port"]["name"] in ports(manifests)[one["name"]] for one in led.values())


@pytest.mark.parametrize("name", ["gateway", "tls-auth"])
def test_one_endpoint_for_all_services_is_led_to_open_inference_too(name: str):
    manifests = together(name)
    text = yaml.safe_dump_all([*of_kind(manifests, "GRPCRoute"), *of_kind(manifests, "Ingress")])
    assert all(one in text for one in (*GRPC, OPEN_INFERENCE))
    assert OPEN_INFERENCE not in yaml.safe_dump_all(rendered(name)), "which of several endpoints would it be?"


def test_every_monitor_scrapes_ports_that_its_pods_have_and_prometheus_may_reach():
    manifests = rendered("cpu")
    policies, prometheus = Policies(manifests), Place({"app": "prometheus"}, namespace="monitoring")
    monitors = of_kind(manifests, "PodMonitor")
    assert len(monitors) == 4
    for monitor in monitors:
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = {title: one for title, one in pod_templates(manifests).items() if wanted <= _labels(one).items()}
        assert found, monitor["metadata"]["name"]
        for title, pod in found.items():
            opened = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
            place = Place({**_labels(pod), "ray.io/group": title.rpartition("/")[2]})
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                assert policies.allow(prometheus, place, opened[endpoint["port"]]), (title, endpoint)


def test_every_dashboard_is_a_config_map_with_the_label_that_grafanas_sidecar_looks_for():
    found = [one for one in of_kind(rendered("cpu"), "ConfigMap") if "grafana_dashboard" in one["metadata"]["labels"]]
    assert {key for one in found for key in one["data"]} == {"serving.json", "training.json", "models.json"}
    assert all(one["metadata"]["labels"]["release"] == "prometheus" for one in found)


@pytest.mark.parametrize("name", ["laptop", "gpu", "serving-only"])
def test_the_notes_give_the_next_three_commands_and_the_first_trains(name: str):
    words = ("install", "eagerly", str(CHART), "-n", "eagerly", "--dry-run=client")
    output = helm(*words, "--values", str(CHART / "ci" / f"{name}-values.yaml"))
    notes = output.stdout.partition("NOTES:")[2]
    assert re.findall(r"^(\d)\. ", notes, re.MULTILINE) == ["1", "2", "3"], output.stderr
    assert "kubectl -n eagerly wait rayservice/eagerly-serving --for=condition=Ready" in notes
    assert "helm -n eagerly test eagerly" in notes
    jobs = [one["data"]["rayjob.json"] for one in of_kind(rendered(name), "ConfigMap") if "rayjob.json" in one["data"]]
    assert bool(jobs) == ("| sed" in notes)
    for job in jobs:
        (edit,) = re.findall(r"\| sed '(.+?)' \|", notes)
        filled = subprocess.run(["sed", edit], input=job, capture_output=True, text=True, check=True).stdout
        assert yaml.safe_load(filled)["spec"]["entrypoint"].startswith("eagerly train sentiment ")


def _labels(pod: Manifest) -> dict[str, str]:
    found: dict[str, str] = pod["metadata"]["labels"]
    return found
