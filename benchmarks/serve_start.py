"""How long `eagerly serve` takes from command to first reply, beyond an empty Ray Serve application's start.

    python -m benchmarks.serve_start --pairs 3

Registers the three tasks' models, untrained, in a working folder of its own; then starts, in turn, an application
that does nothing (to its first answer through a handle) and `eagerly serve` (to its first reply over gRPC).
"""

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eagerly.client import Client
from services import ports

TARGET_S = 15.0
EMPTY = """
import ray
from ray import serve

@serve.deployment
class Empty:
    def __call__(self) -> str:
        return "here"

ray.init(address="local", include_dashboard=False, log_to_driver=False)
serve.start(proxy_location="Disabled")
print(serve.run(Empty.bind(), route_prefix=None).remote().result(), flush=True)
serve.shutdown()
"""


def main() -> None:
    """Measures pairs and prints them with the median of their differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="starts of each, in turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _register(folder)
        print("| pair | empty application s | eagerly serve s | beyond s |\n|---|---|---|---|")
        beyond = []
        for number in range(1, arguments.pairs + 1):
            empty_s, serve_s = _empty(folder), _eagerly(folder)
            beyond.append(serve_s - empty_s)
            print(f"| {number} | {empty_s:.1f} | {serve_s:.1f} | {beyond[-1]:.1f} |", flush=True)
    print(f"\nmedian beyond an empty application: {statistics.median(beyond):.1f} s; target: at most {TARGET_S:.0f} s")


def _register(folder: Path) -> None:
    """Makes an untrained model of each task the champion of the folder's own registry."""
    from pipelines import artifact, registry, tasks, tracking

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    os.environ["EAGERLY_HOME"] = str(folder / "home")
    os.environ.pop("RAY_ADDRESS", None)
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        for name in tasks.TASKS:
            task = tasks.find(name)
            config = task.config.Config()
            model = task.model.Model.create(config, task.data.load(config))
            digest = artifact.write(folder / name, name, model.save)
            tracker = tracking.Tracker(name, "benchmark")
            source = tracker.finish({}, folder / name)
            registry.register(name, source, tracker.run_id, digest, {"accuracy": 0.0}, "accuracy", "always")


def _empty(folder: Path) -> float:
    """Starts the application that does nothing; seconds until it answered."""
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", EMPTY], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        return time.monotonic() - began


def _eagerly(folder: Path) -> float:
    """Starts `eagerly serve`; seconds until it replied over gRPC."""
    port, metrics_port = ports.find("127.0.0.1", 0, "port"), ports.find("127.0.0.1", 0, "port")
    words = ["serve", "--port", str(port), "--metrics-port", str(metrics_port)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "eagerly", *words], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        with Client(f"127.0.0.1:{port}", timeout_s=120) as client:
            client.analyze(["What a film!"])
        answered_s = time.monotonic() - began
        process.terminate()
    return answered_s


if __name__ == "__main__":
    main()
