"""Checkers of manifests find nothing in the charts but what the README gives a reason for."""

import re

import pytest
from charts import CHART, MISSING, NAMES, ROOT, program, rendered
from linter import OPERATORS, Finding, findings, reasons
from platforms import CRDS, built, chart_repository

REASONS = reasons()
ALL = ["defaults", *NAMES, "platform"]
BAD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "bad"},
    "spec": {"containers": [{"name": "bad", "image": "python:latest"}]},
}


@pytest.fixture(scope="module")
def found(chart_tools: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[Finding]]:
    """The findings in every combination of eagerly's chart, and in the umbrella chart beside the operator's own."""
    if not program("kube-score").exists():
        pytest.skip("no kube-score: `make check-tools` installs it where Go is")
    if not CRDS.is_dir():
        pytest.skip(MISSING)
    with chart_repository(tmp_path_factory.mktemp("repository")) as address:
        platform = built(tmp_path_factory.mktemp("platform"), address).rendered()
    combinations = {name: findings(rendered(name)) for name in ALL if name != "platform"}
    umbrella = {one for one in findings(platform) if one.thing != OPERATORS}
    return {**combinations, "platform": umbrella}


@pytest.mark.parametrize("name", ALL)
def test_every_finding_has_a_stated_reason(found: dict[str, set[Finding]], name: str):
    assert [one for one in sorted(found[name]) if not any(reason.covers(one) for reason in REASONS)] == []


def test_every_stated_reason_is_about_a_finding_that_occurs(found: dict[str, set[Finding]]):
    everything = set().union(*found.values())
    assert [one for one in REASONS if not any(one.covers(finding) for finding in everything)] == []


def test_the_readme_names_the_version_that_is_installed():
    script = (ROOT / "tests" / "kube" / "install-tools.sh").read_text()
    (version,) = re.findall(r"^KUBE_SCORE=v(.+)$", script, re.MULTILINE)
    assert f"kube-score {version} finds nothing else" in (CHART / "README.head.md").read_text()


def test_a_careless_pod_is_found(found: dict[str, set[Finding]]):
    checks = {one.check for one in findings([BAD]) if not any(reason.covers(one) for reason in REASONS)}
    assert {"container-image-tag", "container-security-context-user-group-id", "pod-networkpolicy"} <= checks
