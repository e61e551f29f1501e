"""Who may reach whom: each pair of Pods, and strangers, on each port that any of them opens."""

from itertools import product

import pytest
import yaml
from charts import NAMES, containers, pod_templates, rendered
from policies import Place, Policies

pytestmark = pytest.mark.usefixtures("chart_tools")
INSTANCE = {"app.kubernetes.io/instance": "eagerly"}
RAY_INSIDE = {6379, 8265, 10001, 10002, 52365}
"""Ports of Ray's own: the GCS, the dashboard, clients, a worker, an agent."""


def pod(component: str, **labels: str) -> Place:
    return Place({**INSTANCE, "app.kubernetes.io/component": component, **labels})


def worker(group: str) -> Place:
    return Place({**pod("serving").labels, "ray.io/group": group})


PLACES = {
    "classifier": worker("classifier"),
    "sentiment": worker("sentiment"),
    "recommender": worker("recommender"),
    "serving-head": pod("serving-head"),
    "training-head": pod("training-head"),
    "training-worker": pod("training-worker"),
    "tracking": pod("tracking"),
    "database": pod("database"),
    "submitter": pod("submitter"),
    "retraining": pod("retraining"),
    "secrets-hook": pod("secrets-hook"),
    "test": Place({**pod("test").labels, "eagerly/client": "true"}),
    "client": Place({"eagerly/client": "true"}),
    "neighbour": Place({"app": "neighbour"}),
    "other release": Place({"app.kubernetes.io/instance": "other", "app.kubernetes.io/component": "serving"}),
    "stranger": Place({"eagerly/client": "true"}, namespace="elsewhere"),
    "disguised stranger": Place({**INSTANCE, "app.kubernetes.io/component": "tracking"}, namespace="elsewhere"),
    "operator": Place({"app.kubernetes.io/name": "kuberay-operator"}, namespace="kuberay-system"),
    "false operator": Place({"app.kubernetes.io/name": "kuberay-operator"}, namespace="elsewhere"),
    "prometheus": Place({"app": "prometheus"}, namespace="monitoring"),
    "dns": Place({"k8s-app": "kube-dns"}, namespace="kube-system"),
    "internet": Place(address="93.184.216.34", is_pod=False),
}
GROUPS = {"classifier": 9001, "sentiment": 9002, "recommender": 9003}
SERVING = {*GROUPS, "serving-head"}
TRAINING = {"training-head", "training-worker"}
PORTS = {*GROUPS.values(), 443, 5000, 5432, 6443, 8080, 9090, 9100, *RAY_INSIDE}


def expected(source: str, target: str, port: int) -> bool:
    """The table of who may reach what, in the chart's README, said once more."""
    if {source, target} <= SERVING or {source, target} <= TRAINING:
        return True
    if target in GROUPS:
        if port == GROUPS[target]:
            return source in ("client", "test")
        return (source, port) in {("prometheus", 9090), ("prometheus", 8080), ("test", 9090)}
    if target in ("serving-head", "training-head", "training-worker"):
        if port == 8265 and target != "training-worker":
            return source == "operator" or (source, target) == ("submitter", "training-head")
        return port == 8080 and source == "prometheus"
    if target == "tracking":
        return port == 5000 and source in SERVING | TRAINING
    if target == "database":
        return port == 5432 and source == "tracking"
    return False


INSIDE = [*PLACES][: [*PLACES].index("client")]
"""The release's own Pods."""


@pytest.mark.parametrize("target", INSIDE)
def test_every_pair_of_pods_may_connect_where_the_table_says_and_nowhere_else(target: str):
    policies = Policies(rendered())
    wrong = [
        (source, target, port)
        for source, port in product(PLACES, PORTS)
        if policies.allow(PLACES[source], PLACES[target], port) != expected(source, target, port)
    ]
    assert wrong == []


@pytest.mark.parametrize("target", INSIDE)
def test_nothing_outside_the_cluster_reaches_in(target: str):
    policies = Policies(rendered())
    assert not any(policies.allow(PLACES["internet"], PLACES[target], port) for port in PORTS)


@pytest.mark.parametrize(
    ("source", "ports"),
    {
        "classifier": set(),
        "serving-head": {443, 6443},
        "training-worker": {443},
        "training-head": {443, 6443},
        "tracking": set(),
        "database": set(),
        "submitter": set(),
        "retraining": {443, 6443},
        "secrets-hook": {443, 6443},
        "test": set(),
    }.items(),
)
def test_pods_reach_out_of_the_cluster_only_where_they_must(source: str, ports: set[int]):
    policies = Policies(rendered())
    assert {port for port in PORTS if policies.allow(PLACES[source], PLACES["internet"], port)} == ports


@pytest.mark.parametrize("source", INSIDE)
def test_everybody_may_ask_for_names(source: str):
    policies = Policies(rendered())
    assert policies.allow(PLACES[source], PLACES["dns"], 53, "UDP")
    assert policies.allow(PLACES[source], PLACES["dns"], 53)
    assert not policies.allow(PLACES[source], PLACES["dns"], 8080)


def test_named_clients_of_other_namespaces_may_call_and_do_nothing_else():
    policies = Policies(rendered("split"))
    shop = Place({"app": "frontend"}, namespace="shop")
    assert {port for port in {*PORTS, 9500, 9600} if policies.allow(shop, PLACES["sentiment"], port)} == {9500}
    assert not policies.allow(Place({"app": "batch"}, namespace="shop"), PLACES["sentiment"], 9500)


def test_a_load_balancers_addresses_may_call_where_they_are_named():
    policies = Policies(rendered("serving-only"))
    assert policies.allow(Place(address="10.2.0.1", is_pod=False), PLACES["sentiment"], 9002)
    assert not policies.allow(Place(address="10.1.0.1", is_pod=False), PLACES["sentiment"], 9002)


@pytest.mark.parametrize(("name", "namespace"), [("gateway", "gateways"), ("tls-auth", "ingress-nginx")])
def test_the_pods_that_carry_outside_traffic_may_call(name: str, namespace: str):
    policies, carrier = Policies(rendered(name)), Place({"app": "proxy"}, namespace=namespace)
    assert policies.allow(carrier, PLACES["sentiment"], 9002)
    assert not policies.allow(carrier, PLACES["sentiment"], 9090)
    assert not policies.allow(carrier, PLACES["serving-head"], 8265)


def test_redis_s3_and_the_external_database_are_reached_where_they_are_used():
    assert Policies(rendered("cpu")).allow(PLACES["serving-head"], Place({}, "state"), 6379)
    outside = Policies(rendered("external-database"))
    assert outside.allow(PLACES["tracking"], PLACES["internet"], 6432)
    assert outside.allow(PLACES["tracking"], PLACES["internet"], 9000)


@pytest.mark.parametrize("name", ["defaults", *NAMES])
def test_no_port_that_a_pod_opens_is_forgotten(name: str):
    """Every container port is reached by somebody, and the probe port by nobody but the node."""
    manifests = rendered(name)
    policies = Policies(manifests)
    unreached = []
    for title, template in pod_templates(manifests).items():
        labels = dict(template["metadata"].get("labels", {}))
        if title.startswith("RayService") and not title.endswith("/head"):
            labels["ray.io/group"] = title.rpartition("/")[2]
        for container in containers(template):
            for port in container.get("ports", []):
                component = labels["app.kubernetes.io/component"]
                others = [one for one in PLACES.values() if one.labels.get("app.kubernetes.io/component") != component]
                reached = any(policies.allow(place, Place(labels), port["containerPort"]) for place in others)
                own_cluster = policies.allow(Place(labels), Place(labels), port["containerPort"])
                if not reached and not (own_cluster and port["name"] in ("gcs-server", "probe")):
                    unreached.append((title, port["name"]))
    assert unreached == []


@pytest.mark.parametrize("name", ["defaults", *NAMES])
def test_every_pod_is_closed_by_a_policy(name: str):
    manifests = rendered(name)
    stranger = Place({"app": "stranger"}, namespace="elsewhere")
    for title, template in pod_templates(manifests).items():
        place = Place(template["metadata"]["labels"])
        assert not any(Policies(manifests).allow(stranger, place, port) for port in PORTS), title
        assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == "eagerly"


def test_a_policy_that_is_taken_away_is_missed():
    """The evaluator sees more than an empty list: without the policy that closes all, anybody calls."""
    manifests = [one for one in rendered() if one["kind"] != "NetworkPolicy"]
    assert Policies(manifests).allow(PLACES["stranger"], PLACES["database"], 5432)
    text = yaml.safe_dump_all(one for one in rendered() if one["kind"] == "NetworkPolicy")
    opened = [one for one in yaml.safe_load_all(text) if not one["metadata"]["name"].endswith("-database")]
    assert not Policies(opened).allow(PLACES["tracking"], PLACES["database"], 5432)
