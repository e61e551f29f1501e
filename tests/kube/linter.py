"""Runs kube-score over rendered manifests, and reads the chart's README, where the reasons for its findings stand."""

import json
import re
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import yaml
from charts import CHART, KUBERNETES, Manifest, pod_templates, program

ROW = re.compile(r"^\| `(.+?)` \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
OPERATORS = "Deployment/kuberay-operator"
"""The Deployment of the operator's own chart."""


@dataclass(frozen=True, order=True)
class Finding:
    """What one check says of one object."""

    check: str
    words: str
    thing: str


@dataclass(frozen=True)
class Reason:
    """A row of the README's table: which findings it is about, and why they are meant."""

    check: str
    words: str
    things: tuple[str, ...]
    why: str

    def covers(self, finding: Finding) -> bool:
        """Whether the finding is one of these."""
        said = (finding.check, finding.words) == (self.check, self.words)
        return said and any(fnmatchcase(finding.thing, one) for one in self.things)


def reasons() -> list[Reason]:
    """The rows of the table under `What checkers of manifests say`."""
    text = (CHART / "README.head.md").read_text().partition("\n## What checkers of manifests say\n")[2]
    rows = ROW.findall(text.partition("\n## ")[0])
    return [Reason(check, words, tuple(re.findall("`(.+?)`", things)), why) for check, words, things, why in rows]


def findings(manifests: list[Manifest]) -> set[Finding]:
    """What kube-score's default checks find in one release, in the Pods too that the Ray operator makes of it."""
    everything = [*map(_in_the_release, manifests), *_ray_pods(manifests)]
    text = "\n---\n".join(yaml.safe_dump(one) for one in everything)
    version = "v" + KUBERNETES.rpartition(".")[0]
    command = [str(program("kube-score")), "score", "--output-format", "json", "--kubernetes-version", version, "-"]
    output = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert output.returncode in (0, 1) and output.stdout, output.stderr
    return {one for scored in json.loads(output.stdout) for one in _of(scored)}


def _of(scored: dict[str, Any]) -> set[Finding]:
    """The findings about one object; 10 is the grade of a check that has none."""
    thing = f"{scored['type_meta']['kind']}/{scored['object_meta']['name']}"
    return {
        Finding(check["check"]["id"], comment["summary"], thing)
        for check in scored["checks"]
        if not check["skipped"] and check["grade"] < 10
        for comment in check["comments"]
    }


def _in_the_release(manifest: Manifest) -> Manifest:
    """The manifest without a namespace: most name none, and the release's own is meant."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "namespace"}
    return {**manifest, "metadata": metadata}


def _ray_pods(manifests: list[Manifest]) -> list[Manifest]:
    """A Pod for each Ray head, worker group and submitter, with the label by which the chart selects a group."""
    pods = []
    for title, template in pod_templates(manifests).items():
        kind, *names = title.split("/")
        if kind in ("RayService", "RayCluster", "ConfigMap"):
            labels = {**template["metadata"]["labels"], "ray.io/group": names[-1]}
            metadata = {"name": "-".join(names), "labels": labels}
            pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    return pods
