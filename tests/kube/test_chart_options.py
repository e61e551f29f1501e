"""What of `eagerly serve` the chart can set, and that replicas get it as they would from the command."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import NAMES, Manifest, of_kind, rendered, template

from eagerly.commands.serve import Serve

pytestmark = [
    pytest.mark.usefixtures("chart_tools"),
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning"),  # ray.serve's own
]
OTHER = """
serving:
  metricsPort: 9191
  probePort: 9292
  services:
    sentiment: {enabled: false}
    classifier: {port: 9393, minReplicas: 2, maxReplicas: 3, cpu: 5, gpu: 1}
  scaling: {targetQueueMilliseconds: 7.5, scaleUpSeconds: 8, scaleDownSeconds: 2000000}
  options:
    maxItems: 1000000
    maxBatch: 65
    maxWaiting: 2000000
    maxMessageBytes: 10000000
    maxHeldBytes: 300000000
    acceptCompressed: true
    inline: false
    paths: fast
    tolerance: 0.00001
    noticeSeconds: 7.5
    drainSeconds: 21.5
    pollSeconds: 2
    maxConnectionAgeSeconds: 1000000
    abstainBelow: 0.00002
    drift: false
    reflection: false
    logPayloadBytes: 100
    otlpEndpoint: http://collector:4318
    traceRatio: 0.00003
security:
  tls: {source: secret, secretName: ours, clientCaSecret: authorities}
  tokens: {source: secret, secretName: hashes}
  jwt: {secretName: keys, issuer: "https://issuer.example.org", audience: eagerly}
networkPolicy: {egress: {internetPorts: [4318]}}
"""
"""Values other than the chart's own, for all that can be set."""
PLAIN = """
serving: {options: {accessLog: false}}
security: {tls: {source: none}, allowPlaintext: true, tokens: {source: none}, allowAnonymous: true}
"""
FIXED = {
    "host": "a Pod's own address; NetworkPolicies and locks say who reaches it",
    "metrics_host": "as host",
    "probe_host": "as host, for the kubelet",
    "services": "each is a group of Pods, as serving.services and serving.layout say",
    "gpus_per_replica": "a Pod has one replica, and Kubernetes gives a Pod whole GPUs",
    "apart": "a process with a part of a network reads the models of its endpoint's machine, and a Pod has its own",
}
"""Flags of `eagerly serve` that no value of the chart is for, and why."""


def applications(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """The applications of Ray Serve that the chart describes."""
    return [
        one
        for service in of_kind(manifests, "RayService")
        for one in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    ]


def arguments(values: str) -> dict[str, Any]:
    """What the application of the classifier is built from with these values."""
    output = template(values)
    assert output.returncode == 0, output.stderr
    (found,) = [one for one in applications([*yaml.safe_load_all(output.stdout)]) if one["name"] == "classifier"]
    return found["args"]


def flags(values: str) -> dict[str, Any]:
    """The same, by the names of the command's flags."""
    found = arguments(values)
    return {**found["options"], **found["scaling"], "gpu": found["gpu"]}


def test_every_flag_of_serve_can_be_set_in_the_chart_or_has_a_reason_not_to():
    given = [flags(values) for values in ("", OTHER, PLAIN)]
    known = {field.name for field in dataclasses.fields(Serve)}
    settable = {name for name in known if len({json.dumps(one.get(name)) for one in given}) > 1}
    assert known - settable == set(FIXED)


@pytest.mark.parametrize("values", ["", OTHER, PLAIN])
def test_numbers_of_any_size_are_numbers_to_the_endpoint(values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from services.application import build

    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path))
    build(arguments(values))
    numbers = {field.name for field in dataclasses.fields(Serve) if isinstance(field.default, int | float)}
    assert {name: value for name, value in flags(values).items() if name in numbers and isinstance(value, str)} == {}


def test_the_chart_asks_for_what_the_command_does_but_for_where_pods_listen_what_locks_them_and_how_they_are_watched():
    given = {field.name: field.default for field in dataclasses.fields(Serve)}
    differs = {name for name, value in flags("").items() if value != given[name]}
    places = {"host", "port", "metrics_host", "probe_host", "probe_port"}
    assert differs == {*places, "tls_cert", "tls_key", "tokens", "access_log", "threads", "max_replicas", "notice_s"}


@pytest.mark.parametrize("name", ["defaults", *NAMES])
def test_replicas_have_the_resources_and_the_environment_that_the_code_gives_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from services.application import build

    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path))
    for application in applications(rendered(name)):
        (deployment,) = application["deployments"]
        bound = build(application["args"])._bound_deployment
        pinned = {"resources": {application["name"]: 1}}
        assert deployment["name"] == bound.name
        assert deployment["ray_actor_options"] == {**(bound.ray_actor_options or {}), **pinned}
