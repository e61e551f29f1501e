"""Load on a gRPC endpoint from ghz, a compiled client."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import google.rpc

from eagerly.v1 import classifier_pb2


@dataclass(frozen=True)
class Load:
    """How many callers call at once, and over how many connections."""

    connections: int
    streams: int
    """Callers on all connections together."""

    def __str__(self) -> str:
        """Names the load in a table."""
        if self.connections == 1 and self.streams > 1:
            return f"1 connection, {self.streams} streams"
        return f"{self.connections} connection{'s' if self.connections > 1 else ''}"


@dataclass(frozen=True)
class Figures:
    """What one run of load measured."""

    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def ghz() -> str:
    """Finds ghz: EAGERLY_TOOLS/bin, ~/.cache/eagerly-tools/bin, or PATH; raises ValueError when it is nowhere."""
    tools = Path(os.environ.get("EAGERLY_TOOLS") or Path.home() / ".cache" / "eagerly-tools") / "bin"
    found = shutil.which("ghz", path=f"{tools}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise ValueError("ghz is not found; install it from ghz.sh, or set EAGERLY_TOOLS to a folder with bin/ghz")
    return found


def image_request(side: int) -> bytes:
    """One grey image of random pixels, as the bytes of a ClassifyRequest."""
    raw = classifier_pb2.RawImage(data=os.urandom(side * side), shape=[side, side])
    return classifier_pb2.ClassifyRequest(images=[classifier_pb2.Image(raw=raw)]).SerializeToString()


def run(address: str, request: Path, load: Load, seconds: float) -> Figures:
    """Calls Classify over and over, each caller as soon as it has its answer."""
    protos = f"proto,{Path(next(iter(google.rpc.__path__))).parents[1]}"
    command = [ghz(), "--insecure", "--call", "eagerly.v1.Classifier.Classify", "--binary-file", str(request)]
    command += ["--proto", "eagerly/v1/classifier.proto", "--import-paths", protos]
    command += ["--connections", str(load.connections), "--concurrency", str(load.streams)]
    command += ["--duration", f"{seconds}s", "--duration-stop", "wait", "--format", "json", address]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    percentiles = {one["percentage"]: one["latency"] / 1e6 for one in report["latencyDistribution"]}
    answered = report["statusCodeDistribution"].get("OK", 0)
    return Figures(report["rps"], percentiles[50], percentiles[99], report["count"] - answered)
