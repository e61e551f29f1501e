"""What Prometheus is told and asked: rules, dashboards, and the metrics that their queries name."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARDS = ("serving", "training", "models")
VARIABLES = {"$__rate_interval": "1m", "$job": ".*", "$service": ".*", "$task": ".*", "$run": ".*"}
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}


def tool(name: str) -> str:
    """A pinned tool, from EAGERLY_TOOLS, the cache or PATH; skips where there is none."""
    folder = Path(os.environ.get("EAGERLY_TOOLS", Path.home() / ".cache" / "eagerly-tools")) / "bin"
    found = shutil.which(name, path=f"{folder}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"no {name} on this machine")
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[str]:
    return [rule["alert"] for rule in rules() if "alert" in rule]


def dashboard(name: str) -> dict[str, Any]:
    return json.loads((MONITORING / "dashboards" / f"{name}.json").read_text())


def queries(name: str) -> dict[str, str]:
    """The queries of a dashboard by panel and letter, with values in place of its variables."""
    found = {}
    for panel in dashboard(name)["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            found[f"{panel['title']} {target['refId']}"] = query
    return found


def metrics_in(query: str) -> set[str]:
    """The metrics that a query reads, without functions, labels and durations."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|\b(?:by|on|without|ignoring)\s*\([^)]*\)", " ", query)
    names = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", bare)
    return {name for name in names if name not in WORDS}
