"""Rules and dashboards speak of metrics that exist; every alert is tested, both ways, and has a page."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import endpoints
import keys
import pytest
import yaml
from monitoring import DASHBOARDS, MONITORING, ROOT, alerts, dashboard, metrics_in, queries, rules, tool
from prometheus_client.parser import text_string_to_metric_families
from registries import eventually
from test_drift import images
from test_metrics import scrape

from eagerly.client import Client, Query, Raw
from eagerly.connection import Tls
from pipelines import reference, workers
from services import drift

OF_PROMETHEUS = {"ALERTS"}
OF_RAY = {
    "ray_train_controller_state",
    "ray_node_cpu_utilization",
    "ray_node_mem_used",
    "ray_node_mem_total",
    "ray_node_gpus_utilization",
}
"""Ray's own; tests/integration/test_pulse.py asks Ray for them."""
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
HEADINGS = ["## What it means", "## How to check", "## How to mend"]
TESTS = sorted((MONITORING / "tests").glob("*.yaml"))


def every_query() -> list[str]:
    return [rule["expr"] for rule in rules()] + [query for name in DASHBOARDS for query in queries(name).values()]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What a running endpoint exposes after one call to each service: labels by metric."""
    folder = tmp_path_factory.mktemp("exposed")
    authority = keys.certificate("authority")
    cert, key = keys.certificate("localhost", authority).write(folder, "server")
    authority.write(folder, "authority")
    shown = images(60, 600)
    classifier, *others = endpoints.real_models()
    classifier = replace(classifier, reference=reference.measure(classifier.model, shown))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drift, "LEAST_ITEMS", 1)  # else it takes 500 calls until there are gauges
        with endpoints.serving([classifier, *others], folder / "metrics", tls_cert=cert, tls_key=key) as endpoint:
            with Client(f"localhost:{endpoint.server.port}", tls=Tls(folder / "authority.crt")) as client:
                client.classify([Raw(shown[0].tobytes(), shown[0].shape)])
                client.analyze(["What a film!"])
                client.recommend([Query(item_ids=("1",), k=1)])
            assert eventually(lambda: "eagerly_drift_ks" in scrape(endpoint, calls=3))
            text = scrape(endpoint, calls=3)
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def test_promtool_finds_the_rules_well_formed() -> None:
    run(tool("promtool"), "check", "rules", str(MONITORING / "rules.yaml"))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(file: Path) -> None:
    run(tool("promtool"), "test", "rules", str(file))


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for file in TESTS for test in yaml.safe_load(file.read_text())["tests"] for case in _cases(test)]
    firing = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert (firing, silent) == (set(alerts()), set(alerts()))


def test_every_alert_has_a_severity_and_a_page_that_tells_what_to_do() -> None:
    for rule in (rule for rule in rules() if "alert" in rule):
        assert rule["labels"]["severity"] in ("critical", "warning")
        page = ROOT / rule["annotations"]["runbook"]
        assert page == ROOT / "docs" / "runbooks" / f"{rule['alert']}.md"
        text = page.read_text()
        assert text.startswith(f"# {rule['alert']}\n")
        assert re.findall("^## .*", text, re.MULTILINE) == HEADINGS


def test_every_page_is_about_an_alert_that_there_is() -> None:
    assert {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")} == set(alerts())


def test_rules_and_dashboards_name_metrics_that_a_running_endpoint_exposes(exposed: dict[str, set[str]]) -> None:
    of_training = {f"ray_eagerly_training_{name}" for name, _ in workers.PULSE}
    known = set(exposed) | of_training | OF_RAY | OF_PROMETHEUS | RECORDED
    assert {name for query in every_query() for name in metrics_in(query)} - known == set()


def test_rules_and_dashboards_name_labels_that_the_metrics_have(exposed: dict[str, set[str]]) -> None:
    given = {"job", "namespace", "instance", "alertname", "alertstate", "le"}
    of_ray = {"task", "run", "ray_train_run_name", "ray_train_controller_state"}
    known = set().union(*exposed.values()) | given | of_ray
    named = {label for query in every_query() for label in _labels(query)}
    assert named - known == set()


def test_a_metric_or_label_that_is_not_there_would_be_seen() -> None:
    query = 'sum by (job, colour) (rate(eagerly_wishes_total{shape="round"}[5m])) > on (job) up'
    assert metrics_in(query) == {"eagerly_wishes_total", "up"}
    assert _labels(query) == {"job", "colour", "shape"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_of_a_dashboard_can_be_parsed(name: str, tmp_path: Path) -> None:
    found = [{"record": f"query{at}", "expr": query} for at, query in enumerate(queries(name).values())]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": found}]}))
    run(tool("promtool"), "check", "rules", str(tmp_path / "queries.yaml"))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_what_grafana_takes(name: str) -> None:
    board = dashboard(name)
    assert board["uid"] == f"eagerly-{name}" and board["schemaVersion"] >= 36
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["type"] in ("timeseries", "table") and panel["title"] and panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"] and all(target["expr"] for target in panel["targets"])
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
    variables = {f"${variable['name']}" for variable in board["templating"]["list"]}
    used = {word for panel in board["panels"] for target in panel["targets"] for word in _variables(target["expr"])}
    assert used <= variables | {"$__rate_interval"}


def test_the_dashboards_are_those_that_the_script_writes(tmp_path: Path) -> None:
    committed = {name: (MONITORING / "dashboards" / f"{name}.json").read_text() for name in DASHBOARDS}
    run(sys.executable, str(MONITORING / "dashboards.py"), str(tmp_path))
    assert {name: (tmp_path / f"{name}.json").read_text() for name in DASHBOARDS} == committed


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def _cases(test: dict[str, Any]) -> list[dict[str, Any]]:
    return test["alert_rule_test"]


def _labels(query: str) -> set[str]:
    selectors = re.findall(r"\{([^}]*)\}", query)
    listed = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", query)
    matched = {name for text in selectors for name in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", text)}
    return matched | {name.strip() for text in listed for name in text.split(",")}


def _variables(query: str) -> list[str]:
    return re.findall(r"\$\w+", query)
