"""A real Prometheus on loopback, with the project's rules in front of an endpoint, for the time of a block."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).resolve().parent.parent / "deploy" / "monitoring"
INTERVAL = "500ms"
RATE_WINDOW = "10s"
"""What stands for Grafana's $__rate_interval at this interval."""
READY_S = 30.0


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Asks for the present: a list of {metric, value}."""
        return self._get("query", query=expression)["result"]

    def query_range(self, expression: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """Asks for a stretch of Unix time: a list of {metric, values}."""
        return self._get("query_range", query=expression, start=start, end=end, step=step_s)["result"]

    def firing(self) -> set[str]:
        """Names the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"}

    def _get(self, what: str, **words: Any) -> Any:
        place = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(place, timeout=10) as reply:
            return json.load(reply)["data"]


def found() -> str | None:
    """Finds Prometheus on PATH."""
    return shutil.which("prometheus")


@contextlib.contextmanager
def running(folder: Path, targets: list[str], rules: str) -> Iterator[Prometheus]:
    """Runs Prometheus on a folder of its own; it scrapes the targets, host:port, as the job eagerly.

    Raises ValueError when there is no Prometheus, or it does not start.
    """
    program = found()
    if program is None:
        raise ValueError("prometheus is not on PATH; install it (Debian: apt-get install prometheus)")
    (folder / "rules.yaml").write_text(rules)
    scrape = {"job_name": "eagerly", "static_configs": [{"targets": targets}]}
    times = {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
    config = {"global": times, "rule_files": ["rules.yaml"], "scrape_configs": [scrape]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = _free_port()
    command = [
        program,
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _await_ready(f"http://127.0.0.1:{port}", process, folder / "log")
            yield Prometheus(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def hasty_rules() -> str:
    """Gives the project's rules with windows of seconds in place of hours, and nearly no patience."""
    text = (MONITORING / "rules.yaml").read_text()
    text = re.sub(r"\[5m\]", f"[{RATE_WINDOW}]", text)
    text = re.sub(r"\[(?:15m|30m|1h|6h|3d)\]", "[20s]", text)
    return re.sub(r"\bfor: \w+", "for: 1s", text)


def _await_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + READY_S
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/-/ready", timeout=5).close()
            return
        if process.poll() is not None or time.monotonic() > until:
            raise ValueError(f"prometheus does not start:\n{log.read_text()}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
