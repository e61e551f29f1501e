"""How long it takes from moving `champion` in MLflow until every replica answers with that model, and what it costs.

    python -m benchmarks.swap --swaps 5 --replicas 2

Serves a classifier with `eagerly serve`'s own code from a registry of its own (SQLite), calls it from several clients
without a pause and without retries, and moves the alias again and again. Each version has labels of its own, so a
reply whose labels are not those of the version in its trailing metadata would be seen. Raw results go to
benchmarks/results/swap.json.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.crowd import crowd
from eagerly.commands.serve import Running, Serve, serving
from eagerly.v1 import classifier_pb2, classifier_pb2_grpc

TARGET_S = 5.0
SIDE = 28
CALLS_A_CONNECTION = 25


@dataclass
class Ledger:
    """What came of every call."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    """Replies whose labels are not those of the version they name."""
    versions: list[list[int]] = field(default_factory=list)
    """The versions that each connection saw, in order, repetitions left out."""

    def note(self, version: int, label: str, seen: list[int]) -> None:
        """Notes a reply."""
        self.answered += 1
        if not label.startswith(f"v{version} "):
            self.mixed.append(f"version {version} answered {label}")
        if seen[-1:] != [version]:
            seen.append(version)

    @property
    def went_back(self) -> list[list[int]]:
        """Connections that saw a version again after another had taken its place."""
        return [seen for seen in self.versions if len(seen) != len(set(seen))]


def main() -> int:
    """Measures and prints a row for each swap; returns 1 when a call failed or a swap took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--callers", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        own_registry(Path(scratch))
        for number in range(1, arguments.swaps + 2):
            register(Path(scratch), number)
        promote(1)
        args = Serve(services=("classifier",), port=0, metrics_port=0, replicas=arguments.replicas, threads=1)
        print("| swap | seconds to all replicas | calls | failed | mixed |\n|---|---|---|---|---|")
        with serving(args) as running:
            took, ledgers = [], []
            for number in range(2, arguments.swaps + 2):
                with calling(running, arguments.callers) as ledger:
                    took.append(swap(running, number, arguments.replicas))
                    time.sleep(0.5)
                failed, mixed = len(ledger.failed), len(ledger.mixed)
                print(f"| {number - 1} | {took[-1]:.2f} | {ledger.answered} | {failed} | {mixed} |", flush=True)
                ledgers.append(ledger)
    print(f"\nmedian {statistics.median(took):.2f} s, longest {max(took):.2f} s; target: at most {TARGET_S:.0f} s")
    bad = [problem for ledger in ledgers for problem in (*ledger.failed, *ledger.mixed, *map(str, ledger.went_back))]
    print(*bad[:5], sep="\n", file=sys.stderr)
    kept = Path("benchmarks/results")
    kept.mkdir(exist_ok=True)
    answered = sum(ledger.answered for ledger in ledgers)
    (kept / "swap.json").write_text(json.dumps({"seconds": took, "answered": answered, "bad": bad}, indent=2))
    return int(bool(bad) or max(took) > TARGET_S)


def own_registry(folder: Path) -> None:
    """Points this process at a registry and a store that lie in a folder, and at no cluster."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    os.environ["EAGERLY_HOME"] = str(folder / "home")
    os.environ.pop("RAY_ADDRESS", None)


def register(folder: Path, number: int) -> None:
    """Registers an untrained classifier whose labels tell its version; it is not champion yet."""
    from pipelines import artifact, registry, tracking

    digest = artifact.write(folder / f"model-{number}", "classifier", model(number).save)
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        tracker = tracking.Tracker("classifier", "benchmark")
        source = tracker.finish({}, folder / f"model-{number}")
        registry.register("classifier", source, tracker.run_id, digest, {"accuracy": 0.0}, "accuracy", "never")


def promote(number: int) -> None:
    """Moves the alias."""
    from pipelines import registry

    registry.promote("classifier", number)


def swap(running: Running, number: int, replicas: int) -> float:
    """Moves the alias; seconds from then until the last replica has swapped, infinite when one has not in a minute."""
    expected = swapped(running) + replicas
    began = time.monotonic()
    promote(number)
    while swapped(running) < expected:
        if time.monotonic() > began + 60:
            return float("inf")
        time.sleep(0.02)
    return time.monotonic() - began


def model(number: int) -> Any:
    """Makes an untrained classifier whose labels begin with v and its number."""
    import torch

    from pipelines.classifier import networks
    from pipelines.classifier.model import Description, Model

    torch.manual_seed(number)
    labels = [f"v{number} {digit}" for digit in range(10)]
    shown = torch.randint(0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8)
    network = networks.build("convnet", (1, SIDE, SIDE), len(labels), 0.0)
    return Model(Description("convnet", labels, [1, SIDE, SIDE], 0.0, labels[:2]), network, shown)


def swapped(running: Running) -> int:
    """Swaps so far, of all replicas together."""
    with urllib.request.urlopen(running.metrics, timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return round(
        sum(float(line.split()[-1]) for line in lines if line.startswith('eagerly_model_swaps_total{outcome="swapped"'))
    )


@contextlib.contextmanager
def calling(running: Running, callers: int) -> Iterator[Ledger]:
    """Calls while the block runs; the ledger is complete when it ends."""
    ledger = Ledger()
    with crowd(callers, lambda _, stop: _call(stop, running, ledger)):
        yield ledger


def _call(stop: threading.Event, running: Running, ledger: Ledger) -> None:
    """Calls over one connection after another, so that every replica is reached."""
    image = classifier_pb2.Image(raw=classifier_pb2.RawImage(data=bytes(SIDE * SIDE), shape=(SIDE, SIDE)))
    request = classifier_pb2.ClassifyRequest(images=[image], top_k=1)
    own = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    while not stop.is_set():
        seen: list[int] = []
        ledger.versions.append(seen)
        with grpc.insecure_channel(running.address, own) as channel:
            stub: Any = classifier_pb2_grpc.ClassifierStub(channel)
            for _ in range(CALLS_A_CONNECTION):
                try:
                    reply, ended = stub.Classify.with_call(request, timeout=30)
                except grpc.RpcError as error:
                    ledger.failed.append(str(error))
                else:
                    trailers = dict(ended.trailing_metadata())
                    ledger.note(int(trailers["eagerly-model-version"]), reply.results[0].labels[0].label, seen)


if __name__ == "__main__":
    sys.exit(main())
