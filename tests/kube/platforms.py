"""The umbrella chart, built with a repository on loopback that holds a small stand-in for the operator's chart."""

import contextlib
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from charts import KUBERNETES, ROOT, Manifest, helm, program, tools

CRDS = tools() / "kuberay" / "crds"
OPERATOR = {"name": "kuberay-operator", "version": "1.6.2", "apiVersion": "v2", "type": "application"}
DEFAULTS = {"nameOverride": "kuberay-operator", "image": {"repository": "operator", "tag": "v0"}}
DEPLOYMENT = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: kuberay-operator}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: kuberay-operator}
spec:
  selector: &selector
    matchLabels: &labels
      app.kubernetes.io/name: {{ .Values.nameOverride }}
      app.kubernetes.io/instance: {{ .Release.Name }}
  template:
    metadata: {labels: *labels}
    spec:
      serviceAccountName: kuberay-operator
      securityContext: {{ toJson .Values.podSecurityContext }}
      containers:
        - name: kuberay-operator
          image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
          args: [--watch-namespace, "{{ if .Values.singleNamespaceInstall }}{{ .Release.Namespace }}{{ end }}"]
          resources: {{ toJson .Values.resources }}
          securityContext: {{ toJson .Values.securityContext }}
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the requests to itself."""


@dataclass(frozen=True)
class Platform:
    """A copy of helm/ with homes of Helm's own, so that neither the checkout nor the user's Helm is touched."""

    folder: Path
    version: str = "helm"

    @property
    def chart(self) -> Path:
        """The umbrella."""
        return self.folder / "helm" / "platform"

    @property
    def environment(self) -> dict[str, str]:
        """Where Helm keeps what it knows."""
        homes = {f"HELM_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("CONFIG", "CACHE", "DATA")}
        return {**os.environ, **homes}

    def run(self, *words: str, values: str = "") -> "subprocess.CompletedProcess[str]":
        """Runs Helm; values: more values as YAML."""
        command = [str(program(self.version)), *words, *(["--values", "-"] if values else [])]
        return subprocess.run(
            command, input=values, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )

    def template(self, values: str = "", *words: str) -> "subprocess.CompletedProcess[str]":
        """Renders it as release `eagerly` in namespace `eagerly`."""
        place = ("--namespace", "eagerly", "--kube-version", KUBERNETES)
        return self.run("template", "eagerly", str(self.chart), *place, *words, values=values)

    def rendered(self, values: str = "", *words: str) -> list[Manifest]:
        """What it renders to."""
        output = self.template(values, *words)
        assert output.returncode == 0, output.stderr
        return [one for one in yaml.safe_load_all(output.stdout) if one]


def copied(folder: Path, version: str = "helm") -> Platform:
    """Copies helm/ as a clean clone has it: nothing is fetched or packed yet."""
    built = shutil.ignore_patterns("charts", "Chart.lock", "*.tgz")
    shutil.copytree(ROOT / "helm", folder / "helm", ignore=built)
    return Platform(folder, version)


def built(folder: Path, repository: str, version: str = "helm") -> Platform:
    """Does what the README says: adds the repository under its usual name, and builds."""
    platform = copied(folder, version)
    for words in (("repo", "add", "kuberay", repository), ("dependency", "build", str(platform.chart))):
        output = platform.run(*words)
        assert output.returncode == 0, output.stderr
    return platform


@contextlib.contextmanager
def chart_repository(folder: Path) -> Iterator[str]:
    """Serves a repository with the stand-in, which has the real definitions of Ray's kinds; yields its address."""
    chart, site = folder / "kuberay-operator", folder / "site"
    (chart / "templates").mkdir(parents=True)
    shutil.copytree(CRDS, chart / "crds")
    (chart / "Chart.yaml").write_text(yaml.safe_dump(OPERATOR))
    (chart / "values.yaml").write_text(yaml.safe_dump(DEFAULTS))
    (chart / "templates" / "operator.yaml").write_text(DEPLOYMENT)
    for words in (("package", str(chart), "--destination", str(site)), ("repo", "index", str(site))):
        output = helm(*words)
        assert output.returncode == 0, output.stderr
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
