"""The umbrella chart: eagerly as it is alone, and the operator exactly where it is asked for."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from charts import CHART, MISSING, ROOT, Manifest, containers, of_kind, pod_templates, program, template
from platforms import CRDS, Platform, built, chart_repository, copied
from policies import Place, Policies

VERSIONS = ["helm", "helm3"]
WITHOUT = "kuberay-operator: {enabled: false}"
COMBINATIONS = ["defaults", "split", "external-database"]
OWN = {"eagerly-operator", "eagerly-dashboards", "eagerly-uninstall", "eagerly-uninstall-hook", "kuberay-operator"}
"""Names of what the umbrella has beside eagerly's own objects."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, chart_tools: None) -> Iterator[str]:
    if not CRDS.is_dir():
        pytest.skip(MISSING)
    with chart_repository(tmp_path_factory.mktemp("repository")) as address:
        yield address


@pytest.fixture(scope="module", params=VERSIONS)
def platform(request: pytest.FixtureRequest, repository: str, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    if not program(request.param).exists():
        pytest.skip(f"no {request.param}: `make check-tools` installs it")
    return built(tmp_path_factory.mktemp(request.param), repository, request.param)


def by_name(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    return {(one["kind"], one["metadata"]["name"]): one for one in manifests}


def alone(name: str, version: str) -> list[Manifest]:
    """What helm/eagerly renders to by itself."""
    output = template(values(name), version=version)
    assert output.returncode == 0, output.stderr
    return [one for one in yaml.safe_load_all(output.stdout) if one]


def values(name: str) -> str:
    return "" if name == "defaults" else (CHART / "ci" / f"{name}-values.yaml").read_text()


def nested(name: str, more: str = "{}") -> str:
    """A combination's values under `eagerly`, and others beside them."""
    return yaml.safe_dump({"eagerly": yaml.safe_load(values(name) or "{}"), **yaml.safe_load(more)})


def test_a_build_brings_both_charts_and_nothing_into_git(platform: Platform, repository: str):
    assert {path.name for path in (platform.chart / "charts").iterdir()} == {
        "eagerly-0.1.0.tgz",
        "kuberay-operator-1.6.2.tgz",
    }
    assert repository in (platform.chart / "Chart.lock").read_text(), "the lock file names a place, so it is ignored"
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/helm/platform/charts/", "/helm/platform/Chart.lock", "*.tgz"} <= set(ignored)


def test_without_a_build_helm_says_what_to_run(platform: Platform, tmp_path: Path):
    output = copied(tmp_path, platform.version).template()
    assert output.returncode != 0
    assert "helm dependency build" in output.stderr
    assert "missing in charts/ directory: eagerly, kuberay-operator" in output.stderr


def test_without_the_repository_helm_says_what_to_add(platform: Platform, tmp_path: Path):
    clean = copied(tmp_path, platform.version)
    output = clean.run("dependency", "build", str(clean.chart))
    assert output.returncode != 0
    assert "no repository definition for @kuberay" in output.stderr and "helm repo add" in output.stderr


@pytest.mark.parametrize("more", ["{}", WITHOUT], ids=["with", "without"])
def test_it_lints_without_a_warning(platform: Platform, more: str):
    output = platform.run("lint", "--strict", "--kube-version", "1.37.0", str(platform.chart), values=more)
    assert output.returncode == 0, output.stdout + output.stderr


def test_the_operator_and_the_definitions_of_its_kinds_come_once(platform: Platform):
    text = platform.template("", "--include-crds").stdout
    assert len(re.findall("^kind: CustomResourceDefinition$", text, re.MULTILINE)) == 4
    kinds = sorted(re.findall(r"^  name: (\w+)\.ray\.io$", text, re.MULTILINE))
    assert kinds == ["rayclusters", "raycronjobs", "rayjobs", "rayservices"]
    assert [one["metadata"]["name"] for one in of_kind(platform.rendered(), "Deployment")].count(
        "kuberay-operator"
    ) == 1


@pytest.mark.parametrize("name", COMBINATIONS)
def test_without_the_operator_it_is_eagerly_and_nothing_else(platform: Platform, name: str):
    manifests = platform.rendered(nested(name, WITHOUT), "--include-crds")
    assert by_name(manifests) == by_name(alone(name, platform.version))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_with_the_operator_eagerly_is_the_same_to_the_letter(platform: Platform, name: str):
    manifests, plain = by_name(platform.rendered(nested(name))), by_name(alone(name, platform.version))
    assert {key: manifests[key] for key in plain} == plain
    assert {called for _, called in set(manifests) - set(plain)} == OWN


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("servng: {}", "servng"),
        ("serving: {enabled: false}", "serving"),
        ("eagerly: {servng: {}}", "servng"),
        ("kuberay-operator: {singleNamespaceInstal: true}", "singleNamespaceInstal"),
        ("kuberay-operator: {enabled: maybe}", "/kuberay-operator/enabled"),
        ("kuberay-operator: {image: {tag: nightly}}", "/kuberay-operator/image/tag"),
        ("kuberay-operator: {watchNamespace: shop}", "/kuberay-operator/watchNamespace"),
        ("kuberay-operator: {watchNamespace: [shop]}", "so the operator would not see eagerly in eagerly"),
        ("eagerly: {image: {tag: latest}}", "image.tag is latest"),
    ],
)
def test_a_mistake_is_refused_in_words_that_name_it(platform: Platform, mistake: str, words: str):
    output = platform.template(mistake)
    assert output.returncode != 0, f"{mistake} was taken"
    assert words in " ".join(output.stderr.split()), output.stderr


def test_a_list_of_namespaces_with_that_of_the_release_is_taken(platform: Platform):
    assert platform.template("kuberay-operator: {watchNamespace: [shop, eagerly]}").returncode == 0


def test_the_operator_is_pinned_sized_restricted_and_sees_its_own_namespace_alone(platform: Platform):
    pod = pod_templates(platform.rendered())["Deployment/kuberay-operator"]
    (container,) = containers(pod)
    assert container["image"].endswith(":v1.6.2")
    assert container["args"] == ["--watch-namespace", "eagerly"]
    assert container["resources"]["requests"] == {"cpu": "100m", "memory": "512Mi"}
    assert container["resources"]["limits"]["memory"] == "512Mi"
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_hook_that_ends_rays_objects_is_as_closed_as_every_pod(platform: Platform):
    manifests = platform.rendered()
    hook = pod_templates(manifests)["Job/eagerly-uninstall-hook"]
    (container,) = containers(hook)
    assert hook["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    policies, place = Policies(manifests), Place(hook["metadata"]["labels"])
    internet = Place(address="93.184.216.34", is_pod=False)
    assert {port for port in PORTS if policies.allow(place, internet, port)} == {443, 6443}
    assert not any(policies.allow(place, other, port) for other in (*HEADS, *OTHERS) for port in (5000, 5432, 8265))
    (role,) = [one for one in of_kind(manifests, "Role") if one["metadata"]["name"] == "eagerly-uninstall-hook"]
    assert [rule["verbs"] for rule in role["rules"]] == [["list", "deletecollection"]]


def pod(component: str, **labels: str) -> Place:
    return Place({"app.kubernetes.io/instance": "eagerly", "app.kubernetes.io/component": component, **labels})


OPERATOR = Place({"app.kubernetes.io/instance": "eagerly", "app.kubernetes.io/name": "kuberay-operator"})
HEADS = [pod(name, **{"ray.io/node-type": "head"}) for name in ("serving-head", "training-head")]
OTHERS = [pod(name) for name in ("serving", "training-worker", "tracking", "database", "retraining")]
PORTS = (443, 5000, 5432, 6379, 6443, 8080, 8265, 9001, 9090, 9100, 10001, 52365)


def test_the_operator_reaches_the_api_and_the_dashboards_and_nothing_else(platform: Platform):
    policies, internet = Policies(platform.rendered()), Place(address="93.184.216.34", is_pod=False)
    assert {port for port in PORTS if policies.allow(OPERATOR, internet, port)} == {443, 6443}
    for head in HEADS:
        assert {port for port in PORTS if policies.allow(OPERATOR, head, port)} == {8265}
    for other in OTHERS:
        assert not any(policies.allow(OPERATOR, other, port) for port in PORTS)
    assert policies.allow(OPERATOR, Place({"k8s-app": "kube-dns"}, namespace="kube-system"), 53, "UDP")


def test_only_prometheus_reaches_the_operator_and_only_the_operator_the_dashboards(platform: Platform):
    policies = Policies(platform.rendered())
    prometheus = Place({"app": "prometheus"}, namespace="monitoring")
    assert {port for port in PORTS if policies.allow(prometheus, OPERATOR, port)} == {8080}
    false = Place(OPERATOR.labels, namespace="elsewhere")
    for stranger in (*HEADS, *OTHERS, false, Place({"app": "neighbour"})):
        assert not any(policies.allow(stranger, OPERATOR, port) for port in PORTS)
    assert not any(policies.allow(false, head, 8265) for head in HEADS)
    without = Policies(platform.rendered(WITHOUT))
    assert not any(without.allow(OPERATOR, head, 8265) for head in HEADS)


def test_an_operator_of_all_namespaces_reaches_their_dashboards(platform: Platform):
    policies = Policies(platform.rendered("kuberay-operator: {singleNamespaceInstall: false}"))
    head = Place({"ray.io/node-type": "head"}, namespace="shop")
    assert {port for port in PORTS if policies.allow(OPERATOR, head, port)} == {443, 6443, 8265}


def test_the_notes_are_those_of_eagerly_and_name_the_operator(platform: Platform):
    words = ("install", "eagerly", str(platform.chart), "--namespace", "eagerly", "--dry-run=client")
    fourth = Platform(platform.folder)  # Helm 3 would ask a cluster
    notes = fourth.run(*words).stdout.partition("NOTES:")[2]
    assert "eagerly 0.1.0 is installed as eagerly in eagerly" in notes
    assert "helm -n eagerly test eagerly" in notes
    assert "operator v1.6.2 is part of this release and watches eagerly" in notes
    assert "operator" not in fourth.run(*words, values=WITHOUT).stdout.partition("NOTES:")[2]
