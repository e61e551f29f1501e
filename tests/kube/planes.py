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

PORT = "27440"


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
def control_plane(scripts: Path, folder: Path, dashboard: str) -> Iterator[Plane]:
    """Starts one and ends it; dashboard: host and port that answer for every Ray cluster."""
    settings = {"TOOLS_DIR": str(tools()), "KUBE_DIR": str(folder), "KUBE_PORT": PORT, "RAY_DASHBOARD": dashboard}
    environment = {**os.environ, **settings}
    up = subprocess.run([scripts / "up.sh"], env=environment, capture_output=True, text=True, check=False)
    assert up.returncode == 0, up.stderr
    try:
        yield Plane(folder / "kubeconfig")
    finally:
        subprocess.run([scripts / "down.sh"], env=environment, check=True)
