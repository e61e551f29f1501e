"""Our endpoint and its peers: how each is installed, started and called."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import psutil

from benchmarks.cpu import Tree, family_of
from benchmarks.load import Figures, Load, run, run_http
from benchmarks.peers.serving import MAX_BATCH
from benchmarks.peers.workloads import Workload
from eagerly.v1 import classifier_pb2 as images
from eagerly.v1 import sentiment_pb2 as texts
from services import ports

HERE = Path("benchmarks/peers")
START_S = 120.0
TYPED = {"classifier": "eagerly.v1.Classifier.Classify", "sentiment": "eagerly.v1.Sentiment.Analyze"}
OPEN_INFERENCE = "inference.GRPCInferenceService.ModelInfer"
TUNED = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


@dataclass(frozen=True)
class Server:
    """A server to compare."""

    command: str
    """With {bin} for its environment's folder of programs and {port} for its port."""
    protocol: str
    """typed (our proto), open (Open Inference), or the path of an HTTP POST and its content type."""
    environment: str = ""
    """The folder under benchmarks/peers with its requirements.txt; empty for our own environment."""
    settings: dict[str, str] = field(default_factory=dict)
    """Environment variables."""
    metadata: tuple[tuple[str, str], ...] = ()
    wait_ms: dict[str, float] = field(default_factory=dict)
    """How long a batch is awaited, for each task the best of those tried; without it, the server finds out itself."""


OURS = Server("{bin}/python -m benchmarks.peers.ours", "typed")
PEERS = {
    "mlserver": Server(
        "{bin}/mlserver start benchmarks/peers/mlserver",
        "open",
        "mlserver",
        {
            "MLSERVER_GRPC_PORT": "{port}",
            "MLSERVER_HTTP_PORT": "{port_2}",
            "MLSERVER_METRICS_PORT": "{port_3}",
            "MLSERVER_PARALLEL_WORKERS": "{processes}",
            "MLSERVER_MODEL_MAX_BATCH_SIZE": "{batch}",
            "MLSERVER_MODEL_MAX_BATCH_TIME": "{wait_s}",
        },
        wait_ms={"classifier": 10, "sentiment": 10},
    ),
    "bentoml": Server(
        "{bin}/bentoml serve benchmarks.peers.bentoml.service:Peer --host 127.0.0.1 --port {port} --working-dir .",
        "/predict application/json",
        "bentoml",
        {"BENTOML_DO_NOT_TRACK": "true"},
    ),
    "litserve": Server(
        "{bin}/python -m benchmarks.peers.litserve.server",
        "/predict application/octet-stream",
        "litserve",
        wait_ms={"classifier": 0.2, "sentiment": 10},
    ),
    "ray-default": Server(
        "{bin}/python -m benchmarks.peers.ray_proxy.server",
        "typed",
        settings=TUNED | {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"},
        metadata=(("application", "peer"),),
        wait_ms={"classifier": 10, "sentiment": 10},
    ),
    "ray-haproxy": Server(
        "{bin}/python -m benchmarks.peers.ray_proxy.server",
        "typed",
        settings=TUNED | {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_NBTHREAD": "2"},
        metadata=(("application", "peer"),),
        wait_ms={"classifier": 10, "sentiment": 10},
    ),
}


def programs(server: Server) -> Path:
    """The folder of programs of a server's environment, under EAGERLY_HOME/peers or ~/.cache/eagerly-peers."""
    if not server.environment:
        return Path(sys.executable).parent
    home = os.environ.get("EAGERLY_HOME")
    places = Path(home) / "peers" if home else Path.home() / ".cache" / "eagerly-peers"
    return places / server.environment / "bin"


def install(server: Server) -> None:
    """Makes a peer's own environment from its pinned requirements, unless it is there."""
    place = programs(server).parent
    if not server.environment or (place / "installed").exists():
        return
    uv = str(Path(sys.executable).parent / "uv")
    requirements = HERE / server.environment / "requirements.txt"
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)], check=True)
    options = ["--quiet", "--python", str(place / "bin" / "python"), "--compile-bytecode"]
    subprocess.run([uv, "pip", "install", *options, "-r", str(requirements)], check=True)
    (place / "installed").touch()


@dataclass(frozen=True, eq=False)
class Running:
    """A server that answers."""

    server: Server
    address: str
    request: Path
    """File with the request's bytes."""
    task: str
    tree: Tree

    def load(self, load: Load, seconds: float) -> Figures:
        """Loads it with the client of its protocol and takes the CPU time of all its processes."""
        return self.tree.measured(lambda: self._load(load, seconds))

    def _load(self, load: Load, seconds: float) -> Figures:
        if self.server.protocol.startswith("/"):
            path, content_type = self.server.protocol.split()
            return run_http(f"http://{self.address}{path}", self.request, content_type, load, seconds)
        call = TYPED[self.task] if self.server.protocol == "typed" else OPEN_INFERENCE
        return run(self.address, self.request, load, seconds, call, self.server.metadata)

    def answer(self) -> bytes:
        """Makes one call; raises OSError or grpc.RpcError when it fails."""
        body = self.request.read_bytes()
        if self.server.protocol.startswith("/"):
            path, content_type = self.server.protocol.split()
            post = urllib.request.Request(f"http://{self.address}{path}", body, {"Content-Type": content_type})
            with urllib.request.urlopen(post, timeout=10) as response:
                return response.read()
        call = TYPED[self.task] if self.server.protocol == "typed" else OPEN_INFERENCE
        service, _, method = call.rpartition(".")
        with grpc.insecure_channel(self.address) as channel:
            rpc = channel.unary_unary(f"/{service}/{method}")
            return rpc(body, timeout=10, metadata=self.server.metadata)


@contextlib.contextmanager
def running(server: Server, workload: Workload, workers: int, clients: int = MAX_BATCH) -> Iterator[Running]:
    """Starts a server with a model, yields it when it answers, and ends it with all its processes.

    clients: how many will call at once, for which a server that must be told of batches is tuned.
    Raises TimeoutError, with the end of what it printed, when it does not answer within two minutes.
    """
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        item, request, log = (Path(scratch) / name for name in ("item", "request", "log"))
        item.write_bytes(workload.item)
        _write_request(server, workload, item, request)
        free = [ports.find("127.0.0.1", 0, "port") for _ in range(3)]
        places = {"bin": str(programs(server)), "port": free[0], "port_2": free[1], "port_3": free[2]}
        places |= {"processes": workers if workers > 1 else 0, "batch": min(clients, MAX_BATCH)}
        places |= {"wait_s": server.wait_ms.get(workload.task, 0.0) / 1e3}
        settings = {name: value.format(**places) for name, value in server.settings.items()}
        settings |= {"PEER_BATCH": str(places["batch"]), "PEER_WAIT_S": str(places["wait_s"])}
        settings |= {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "PEER_WORKERS": str(workers)}
        settings |= {"PEER_PORT": str(free[0]), "PEER_PORT_2": str(free[1]), "PEER_TASK": workload.task}
        settings |= {"PEER_MODEL": workload.stored.folder, "PEER_ITEM": str(item)}
        settings |= {"PEER_STORED": json.dumps(asdict(workload.stored)), "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            server.command.format(**places).split(),
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=stack.enter_context(log.open("wb")),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(_end, process)
        started = Running(server, f"127.0.0.1:{free[0]}", request, workload.task, Tree(process.pid))
        _wait(started, process, log)
        yield started


def _write_request(server: Server, workload: Workload, item: Path, request: Path) -> None:
    if server.protocol == "open":
        command = [programs(server) / "python", HERE / server.environment / "payload.py", item, request]
        subprocess.run([str(word) for word in command], check=True)
    elif server.protocol.endswith("application/json"):
        sentence = workload.task == "sentiment"
        word = workload.item.decode() if sentence else base64.b64encode(workload.item).decode()
        request.write_text(json.dumps({"items": [word]}))
    elif server.protocol.startswith("/"):
        request.write_bytes(workload.item)
    elif workload.task == "sentiment":
        request.write_bytes(texts.AnalyzeRequest(texts=[workload.item.decode()]).SerializeToString())
    else:
        side = int(len(workload.item) ** 0.5)
        raw = images.RawImage(data=workload.item, shape=[side, side])
        request.write_bytes(images.ClassifyRequest(images=[images.Image(raw=raw)]).SerializeToString())


def _wait(started: Running, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            started.answer()
            return
        except (OSError, grpc.RpcError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                end = log.read_text(errors="replace")[-3000:]
                raise TimeoutError(f"{started.server.command} does not answer ({error}):\n{end}") from None
            time.sleep(0.5)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Closes standard input, which ends our servers; then asks the whole session, then kills it.

    Ray's replicas have sessions of their own, and may outlive it by minutes in which they take a processor.
    """
    assert process.stdin is not None
    family = family_of(process.pid)
    process.stdin.close()
    for number, seconds in ((None, 15.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # psutil knows a process whose number was given anew
            one.kill()
    psutil.wait_procs(family, timeout=10)
