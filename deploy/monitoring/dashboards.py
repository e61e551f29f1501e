"""Writes the Grafana dashboards: `python deploy/monitoring/dashboards.py deploy/monitoring/dashboards`.

The JSON is what Grafana, the chart and the compose file read; it is made here of panels.py, in
which a panel is one line.
"""

import json
import sys
from pathlib import Path
from typing import Any

from panels import MODELS, SERVED, SERVING, TRAINED, TRAINING, Panel, Variable

WIDTH, HEIGHT, COLUMNS = 8, 8, 3
"""Of a panel, in Grafana's grid of 24 columns."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
DASHBOARDS = {"serving": (SERVING, SERVED), "models": (MODELS, SERVED), "training": (TRAINING, TRAINED)}


def main(folder: Path) -> None:
    """Writes every dashboard into a folder."""
    for name in DASHBOARDS:
        (folder / f"{name}.json").write_text(render(name))


def render(name: str) -> str:
    """Gives a dashboard as Grafana's JSON."""
    panels, variables = DASHBOARDS[name]
    board = {
        "uid": f"eagerly-{name}",
        "title": f"eagerly: {name}",
        "tags": ["eagerly"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": [_datasource(), *map(_variable, variables)]},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }
    return json.dumps(board, indent=2) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    table = panel.kind == "table"
    targets = [
        {
            "refId": chr(ord("A") + at),
            "datasource": SOURCE,
            "expr": query,
            "legendFormat": legend or "__auto",
            "instant": table,
            "range": not table,
            "format": "table" if table else "time_series",
        }
        for at, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {"x": number % COLUMNS * WIDTH, "y": number // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {},
        "targets": targets,
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "definition": variable.query,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "sort": 1,
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
