"""A Kubernetes control plane on loopback: a real API server, kwok for nodes and Pods in name, the real operator."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charts import Manifest, program, tools

PORTS = ("27440", "27460")
"""First ports of the two control planes of a session: with a stand-in for Ray's dashboard, and with a real one."""
DISKS = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk-%d}
spec:
  capacity: {storage: 200Gi}
  accessModes: [ReadWriteOnce, ReadWriteMany]
  hostPath: {path: /nowhere}
"""
FOREIGN = {
    "sigs.k8s.io/gateway-api@v1.4.0": [
        "config/crd/standard/*_grpcroutes.yaml",
        "config/crd/standard/*_backendtlspolicies.yaml",
    ],
    "github.com/cert-manager/cert-manager@v1.18.2": ["deploy/crds/crd-certificates.yaml"],
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": [
        "example/prometheus-operator-crd/*_podmonitors.yaml",
        "example/prometheus-operator-crd/*_prometheusrules.yaml",
    ],
}
"""Go modules that bring the definitions of other projects' objects."""


@dataclass(frozen=True)
class Plane:
    """How to reach it."""

    kubeconfig: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of programs that are to find it."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def run(self, name: str, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Runs kubectl, helm or helm3."""
        command = [str(program(name)), *words]
        return subprocess.run(
            command, input=stdin, env=self.environment, capture_output=True, text=True, check=False, timeout=240
        )

    def kubectl(self, *words: str, stdin: str = "") -> str:
        done = self.run("kubectl", *words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, kinds: str, namespace: str, *words: str) -> list[Manifest]:
        """All objects of some kinds."""
        found: list[Manifest] = json.loads(self.kubectl("get", kinds, "-n", namespace, "-o", "json", *words))["items"]
        return found

    def add_disks(self) -> None:
        """Makes volumes for claims: nothing is ever written to them."""
        self.kubectl("apply", "-f", "-", stdin="---".join(DISKS % number for number in range(24)))

    def add_foreign_kinds(self) -> bool:
        """Defines the Gateway API's, cert-manager's and Prometheus's kinds; False where their modules cannot be had."""
        for module, patterns in FOREIGN.items():
            asked = ["go", "mod", "download", "-json", module]
            try:
                found = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=self.kubeconfig.parent)
            except (OSError, subprocess.CalledProcessError):
                return False
            folder = Path(json.loads(found.stdout)["Dir"])
            texts = [path.read_text() for pattern in patterns for path in folder.glob(pattern)]
            plain = ["\n".join(line for line in text.splitlines() if "{{" not in line) for text in texts]
            self.kubectl("apply", "--server-side", "-f", "-", stdin="\n---\n".join(plain))
        return True

    def namespace(self, name: str) -> str:
        """Makes a namespace in which Pod Security `restricted` is enforced."""
        self.kubectl("create", "namespace", name)
        self.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        return name


def eventually(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Waits until something is true, and returns it."""
    until = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.3)
    return found


@contextlib.contextmanager
def control_plane(scripts: Path, folder: Path, dashboard: str, port: str) -> Iterator[Plane]:
    """Starts one and ends it; dashboard: host and port that answer for every Ray cluster."""
    settings = {"TOOLS_DIR": str(tools()), "KUBE_DIR": str(folder), "KUBE_PORT": port, "RAY_DASHBOARD": dashboard}
    environment = {**os.environ, **settings}
    up = subprocess.run([scripts / "up.sh"], env=environment, capture_output=True, text=True, check=False)
    assert up.returncode == 0, up.stderr
    try:
        yield Plane(folder / "kubeconfig")
    finally:
        subprocess.run([scripts / "down.sh"], env=environment, check=True)
