"""Renders the chart with Helm, and reads what comes out."""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "eagerly"
COMBINATIONS = sorted((CHART / "ci").glob("*-values.yaml"))
NAMES = [path.name.removesuffix("-values.yaml") for path in COMBINATIONS]
KUBERNETES = "1.37.0"
MISSING = "no Kubernetes tools: `make check-tools` installs them"
Manifest = dict[str, Any]


def tools() -> Path:
    """The folder of the pinned tools: $EAGERLY_TOOLS, or the cache that `make check-tools` fills."""
    return Path(os.environ.get("EAGERLY_TOOLS") or Path.home() / ".cache" / "eagerly-tools")


def program(name: str) -> Path:
    return tools() / "bin" / name


def helm(*words: str, version: str = "helm", values: str = "") -> "subprocess.CompletedProcess[str]":
    """Runs Helm; values: more values as YAML."""
    command = [str(program(version)), *words, *(["--values", "-"] if values else [])]
    return subprocess.run(command, input=values, capture_output=True, text=True, check=False)


def template(values: str = "", *files: Path, version: str = "helm") -> "subprocess.CompletedProcess[str]":
    """Renders the chart as release `eagerly` in namespace `eagerly`."""
    words = ["template", "eagerly", str(CHART), "--namespace", "eagerly", "--kube-version", KUBERNETES]
    return helm(*words, *(word for file in files for word in ("--values", str(file))), version=version, values=values)


@cache
def rendered(name: str = "defaults") -> list[Manifest]:
    """What a combination renders to; `defaults` is the chart as it is."""
    files = [] if name == "defaults" else [CHART / "ci" / f"{name}-values.yaml"]
    output = template("", *files)
    assert output.returncode == 0, output.stderr
    return [one for one in yaml.safe_load_all(output.stdout) if one]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] == kind]


def pod_templates(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Every Pod that the chart describes, by what it is called: metadata and spec."""
    found: dict[str, Manifest] = {}
    for one in manifests:
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            found[name] = spec["template"]
        elif one["kind"] == "CronJob":
            found[name] = spec["jobTemplate"]["spec"]["template"]
        elif one["kind"] == "Pod":
            found[name] = one
        elif one["kind"] in ("RayService", "RayCluster"):
            cluster = spec.get("rayClusterConfig", spec)
            found[f"{name}/head"] = cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                found[f"{name}/{group['groupName']}"] = group["template"]
        elif one["kind"] == "ConfigMap" and "rayjob.json" in one["data"]:
            found[name] = yaml.safe_load(one["data"]["rayjob.json"])["spec"]["submitterPodTemplate"]
    return found


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
