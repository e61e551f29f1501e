"""The chart as Helm sees it: every supported combination lints, renders and fits the schemas."""

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml
from charts import CHART, COMBINATIONS, NAMES, ROOT, helm, pod_templates, program, rendered, template, tools

pytestmark = pytest.mark.usefixtures("chart_tools")
ALL = ["defaults", *NAMES]


def test_there_is_a_values_file_for_every_supported_combination():
    named = {"laptop", "cpu", "gpu", "split", "external-database", "tls-auth"}
    assert named <= set(NAMES)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("version", ["helm", "helm3"])
def test_every_combination_lints_without_a_warning(name: str, version: str):
    if not program(version).exists():
        pytest.skip(f"no {version}: `make check-tools` installs it")
    files = [] if name == "defaults" else ["--values", str(CHART / "ci" / f"{name}-values.yaml")]
    output = helm("lint", "--strict", "--kube-version", "1.37.0", str(CHART), *files, version=version)
    assert output.returncode == 0, output.stdout + output.stderr


@pytest.mark.parametrize("path", COMBINATIONS, ids=NAMES)
def test_helm_3_renders_what_helm_4_renders(path):
    if not program("helm3").exists():
        pytest.skip("no helm3: `make check-tools` installs it")
    output = template("", path, version="helm3")
    assert output.returncode == 0, output.stderr
    third = [one for one in yaml.safe_load_all(output.stdout) if one]
    assert _by_name(third) == _by_name(rendered(path.name.removesuffix("-values.yaml")))


@pytest.mark.parametrize("name", ALL)
def test_every_manifest_fits_the_schemas_of_kubernetes_and_kuberay(name: str):
    foreign = "Certificate,GRPCRoute,BackendTLSPolicy,PodMonitor,PrometheusRule"
    schemas = f"{tools()}/schemas/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    jobs = [
        yaml.safe_load(one["data"]["rayjob.json"]) for one in rendered(name) if "rayjob.json" in one.get("data", {})
    ]
    text = yaml.safe_dump_all([*rendered(name), *jobs])
    command = [str(program("kubeconform")), "-strict", "-skip", foreign, "-schema-location", schemas, "-"]
    output = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert output.returncode == 0, output.stdout


def test_the_schema_knows_every_value_and_refuses_all_others_at_every_level():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert list(_unequal(values, schema, "")) == []


def test_the_readme_of_the_chart_is_made_from_its_values():
    made = subprocess.run(
        [sys.executable, str(ROOT / "helm" / "readme.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("folder", ["rules.yaml", "dashboards"])
def test_rules_and_dashboards_are_those_of_the_deployment_folder(folder: str):
    source = ROOT / "deploy" / "monitoring" / folder
    if source.exists():
        assert _contents(CHART / "files" / folder) == _contents(source)


def test_each_service_has_worker_pods_and_an_application_pinned_to_them():
    (service,) = [one for one in rendered("split") if one["kind"] == "RayService"]
    groups = {one["groupName"]: one for one in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert config["proxy_location"] == "Disabled"
    assert [one["name"] for one in config["applications"]] == ["recommender", "sentiment"]
    for application in config["applications"]:
        name, (deployment,) = application["name"], application["deployments"]
        assert application["args"]["tasks"] == [name]
        assert deployment["max_replicas_per_node"] == 1
        assert deployment["ray_actor_options"]["resources"] == {name: 1}
        assert groups[name]["rayStartParams"]["resources"] == f"'{{\"{name}\": 1}}'"
    assert groups["sentiment"]["maxReplicas"] == 4, "three, and one for the surge of a rolling update"


def test_together_puts_all_services_on_one_port():
    (service,) = [one for one in rendered("laptop") if one["kind"] == "RayService"]
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    assert application["args"]["tasks"] == ["classifier", "recommender", "sentiment"]
    assert application["args"]["options"]["port"] == 9000


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")  # ray.serve's own
@pytest.mark.parametrize("name", ALL)
def test_the_builder_takes_what_the_chart_gives_it(name: str):
    from services.application import ARGUMENTS, options
    from services.scaling import Scaling

    for service in (one for one in rendered(name) if one["kind"] == "RayService"):
        for application in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]:
            args = application["args"]
            assert set(args) <= set(ARGUMENTS)
            options(args["options"])
            Scaling(**args["scaling"])


def test_the_head_serves_nothing():
    (service,) = [one for one in rendered() if one["kind"] == "RayService"]
    assert service["spec"]["excludeHeadPodFromServeSvc"] is True
    assert service["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_serving_pods_probe_the_plaintext_port_and_keep_the_operators_liveness_probe():
    pods = {name: pod for name, pod in pod_templates(rendered()).items() if name.startswith("RayService")}
    workers = [pod["spec"]["containers"][0] for name, pod in pods.items() if not name.endswith("/head")]
    assert len(workers) == 3
    for worker in workers:
        assert worker["readinessProbe"]["grpc"] == {"port": 9100, "service": ""}
        assert "livenessProbe" not in worker


def _by_name(manifests: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["metadata"]["name"]): one for one in manifests}


def _unequal(values: Any, schema: dict[str, Any], path: str) -> "Any":
    """Where the values have a key that the schema lacks, or the reverse, or the schema would take any key."""
    if "properties" not in schema:
        return
    known = set(schema["properties"]) - ({"global"} if not path else set())
    if schema.get("additionalProperties") is not False or known != set(values):
        yield path
    for key in known & set(values):
        yield from _unequal(values[key], schema["properties"][key], f"{path}.{key}")


def _contents(path: Any) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.glob("*.json"))
    return {file.name: file.read_bytes() for file in files}
