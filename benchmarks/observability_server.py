"""What benchmarks.observability loads: a server without Ray that observes as much as it is told to.

    python -m benchmarks.observability_server FOLDER COLLECTOR [metrics] [access_log] [traces]

FOLDER has the model, and takes the log and the metrics. Prints the port, and serves until it is killed.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from services import door, server
from services.metrics import Histogram, Metrics, Value
from services.models import Stored, load
from services.options import Options


class Nothing(Metrics):
    """Metrics that count nothing."""

    def value(self, metric: Any, *labels: str) -> Value:
        """Gives a number that stays as it is."""
        return _NoValue()

    def histogram(self, metric: Any, *labels: str) -> Histogram:
        """Gives a histogram that stays empty."""
        return _NoHistogram()


class _NoValue(Value):
    def __init__(self) -> None:
        """Has no file."""

    def add(self, amount: float) -> None:
        """Does nothing."""

    def set(self, value: float) -> None:
        """Does nothing."""


class _NoHistogram(Histogram):
    def __init__(self) -> None:
        """Has no buckets."""

    def observe(self, values: Any) -> None:
        """Does nothing."""


class NoFigures(door.Figures):
    """Figures of an RPC that are not kept."""

    def begin(self) -> None:
        """Does nothing."""

    def end(self, code: int, seconds: float) -> None:
        """Does nothing."""

    def add_items(self, codes: dict[int, int]) -> None:
        """Does nothing."""


async def serve(folder: Path, collector: str, parts: list[str]) -> None:
    """Serves until the process is killed."""
    import torch

    from pipelines import artifact

    torch.set_num_threads(1)
    if "metrics" not in parts:
        server.Metrics, door.Figures = Nothing, NoFigures
    options = Options(
        port=0,
        metrics_port=0,
        access_log=str(folder / "access.jsonl") if "access_log" in parts else "",
        otlp_endpoint=collector if "traces" in parts else "",
    )
    digest = artifact.verify(folder / "model")
    model = load(Stored("classifier", str(folder / "model"), 1, "benchmark", digest))
    running = server.Server(options, [model], folder / f"metrics-{len(parts)}")
    await running.start()
    print(running.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
