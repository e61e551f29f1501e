"""Load on an endpoint from a compiled client: ghz for gRPC, wrk for HTTP."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import google.rpc

from eagerly.v1 import classifier_pb2

CLASSIFY = "eagerly.v1.Classifier.Classify"
PROTOS = {"eagerly.v1": "eagerly/v1/{}.proto", "inference": "inference/open_inference.proto"}
"""Where the messages of a package are described, under proto/."""

_KEPT: list[object] = []
"""Temporary files that are needed until the process ends."""

WRK_SCRIPT = """
function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = args[2]
  local file = io.open(args[1], "rb")
  wrk.body = file:read("*a")
  file:close()
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"count": %d, "us": %d, "p50_us": %d, "p99_us": %d, "failed": %d}\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""
"""Posts the same body over and over; its last line says what was measured."""


@dataclass(frozen=True)
class Load:
    """How many callers call at once, and over how many connections."""

    connections: int
    streams: int
    """Callers on all connections together."""

    @classmethod
    def parse(cls, text: str) -> "Load":
        """Reads `32`, as many connections, or `1x32`, streams on one; raises ValueError for anything else."""
        connections, _, streams = text.partition("x")
        return cls(int(connections), int(streams or connections))

    def __str__(self) -> str:
        """Names the load in a table."""
        if self.connections == 1 and self.streams > 1:
            return f"1 connection, {self.streams} streams"
        return f"{self.connections} connection{'s' if self.connections > 1 else ''}"


@dataclass(frozen=True)
class Figures:
    """What one run of load measured."""

    per_s: float
    """Calls that were answered, not refused, a second."""
    p50_ms: float
    p99_ms: float
    failed: int
    count: int
    """Calls, failed ones among them."""
    cpu_us: float = float("nan")
    """CPU time of the server a call, where it was measured."""


def ghz() -> str:
    """Finds ghz: EAGERLY_TOOLS/bin, ~/.cache/eagerly-tools/bin, or PATH; raises ValueError when it is nowhere."""
    tools = Path(os.environ.get("EAGERLY_TOOLS") or Path.home() / ".cache" / "eagerly-tools") / "bin"
    found = shutil.which("ghz", path=f"{tools}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise ValueError("ghz is not found; install it from ghz.sh, or set EAGERLY_TOOLS to a folder with bin/ghz")
    return found


def wrk() -> str:
    """Finds wrk on PATH; raises ValueError when it is not there."""
    found = shutil.which("wrk")
    if found is None:
        raise ValueError("wrk is not found on PATH; install it, for example from Debian's package wrk")
    return found


def image_request(side: int) -> bytes:
    """One grey image of random pixels, as the bytes of a ClassifyRequest."""
    pixels = os.urandom(side * side).replace(b"{", b"|")  # ghz takes what two of them begin for a template
    raw = classifier_pb2.RawImage(data=pixels, shape=[side, side])
    return classifier_pb2.ClassifyRequest(images=[classifier_pb2.Image(raw=raw)]).SerializeToString()


def run(
    address: str,
    request: Path,
    load: Load,
    seconds: float,
    call: str = CLASSIFY,
    metadata: tuple[tuple[str, str], ...] = (),
    ca: Path | None = None,
) -> Figures:
    """Calls an RPC over and over, each caller as soon as it has its answer; raises ValueError when ghz fails.

    request: file with the request's bytes. call: package.Service.Method of a package in PROTOS. ca: the authority of
    a server that speaks TLS as `localhost`; None calls in the clear.
    """
    security = ["--insecure"] if ca is None else ["--cacert", str(ca), "--cname", "localhost"]
    command = [ghz(), *security, "--call", call, "--binary-file", str(request)]
    command += ["--metadata", json.dumps(dict(metadata))] if metadata else []
    command += ["--connections", str(load.connections), "--concurrency", str(load.streams)]
    command += ["--duration", f"{seconds}s", "--duration-stop", "wait", "--format", "json", address]
    report = json.loads(_output([*command, "--protoset", _described(call)]))
    percentiles = {one["percentage"]: one["latency"] / 1e6 for one in report["latencyDistribution"] or ()}
    failed = report["count"] - report["statusCodeDistribution"].get("OK", 0)
    p50_ms, p99_ms = (percentiles.get(at, float("nan")) for at in (50, 99))
    per_s = report["rps"] * (1 - failed / max(1, report["count"]))
    return Figures(per_s, p50_ms, p99_ms, failed, report["count"])


@functools.cache
def _described(call: str) -> str:
    """Compiles the messages of an RPC, once: ghz's own parser knows no `optional` fields in proto3."""
    package, service, _ = call.rsplit(".", 2)
    described = tempfile.NamedTemporaryFile(suffix=".binpb")  # noqa: SIM115 - open until the process ends
    _KEPT.append(described)
    folders = ("-Iproto", f"-I{Path(next(iter(google.rpc.__path__))).parents[1]}")
    command = [sys.executable, "-m", "grpc_tools.protoc", *folders, "--include_imports"]
    command += [f"--descriptor_set_out={described.name}", PROTOS[package].format(service.lower())]
    subprocess.run(command, check=True)
    return described.name


def run_http(url: str, body: Path, content_type: str, load: Load, seconds: float) -> Figures:
    """Posts a file over and over, each caller as soon as it has its answer; anything but 2xx counts as failed."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK_SCRIPT)
        script.flush()
        command = [wrk(), "--threads", "1", "--connections", str(load.connections), "--timeout", "30s"]
        command += ["--duration", f"{max(1, round(seconds))}s", "--script", script.name, url, "--", str(body)]
        shown = _output([*command, content_type])
    report = json.loads(shown.strip().rpartition("\n")[2])
    per_s = 1e6 * (report["count"] - report["failed"]) / report["us"]
    return Figures(per_s, report["p50_us"] / 1e3, report["p99_us"] / 1e3, report["failed"], report["count"])


def _output(command: list[str]) -> str:
    """Runs a load generator; raises ValueError with what it complained of when it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{Path(command[0]).name} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout
