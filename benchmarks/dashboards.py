"""Remakes docs/serving-dashboard.png: the serving dashboard's queries, asked of a real Prometheus, and plotted.

    python -m benchmarks.dashboards --seconds 90

Trains small models on the embedded data, serves them without Ray in a process of their own, calls them in waves (a
few of the calls are wrong, a few in more of a hurry than can be served), has Prometheus scrape and apply the project's
rules, asks it what every panel asks, and draws the answers. Prometheus must be on PATH.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import prometheus
from benchmarks.prometheus import MONITORING, Prometheus
from pipelines.place import Place

PICTURE = MONITORING.parents[1] / "docs" / "serving-dashboard.png"
PANELS = (
    "Calls",
    "Failed calls",
    "Latency",
    "Queue time",
    "Compute time",
    "Batch size",
    "Calls in flight",
    "Items",
    "Replicas",
)
TASKS = ("classifier", "sentiment", "recommender")
CALLERS = 6
STEP_S = 1.0


def main() -> int:
    """Trains, serves, calls, asks and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0, help="how long the endpoint is called")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(_serve(arguments.serve))
        return 0
    if prometheus.found() is None:
        print("prometheus is not on PATH; install it (Debian: apt-get install prometheus)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for task in TASKS:
            _train(task, folder / task)
        with _serving(folder) as (address, metrics), prometheus.running(folder, [metrics], _rules()) as asked:
            began = time.time()
            _load(address, arguments.seconds)
            draw(asked, began, time.time())
    print(PICTURE)
    return 0


def draw(asked: Prometheus, began: float, ended: float) -> None:
    """Asks what the panels ask, over a stretch of Unix time, and draws each."""
    from matplotlib.figure import Figure

    board = json.loads((MONITORING / "dashboards" / "serving.json").read_text())
    panels = {panel["title"]: panel for panel in board["panels"]}
    figure = Figure(figsize=(15, 9), layout="constrained", dpi=80)
    for axes, title in zip(figure.subplots(3, 3).flat, PANELS, strict=True):
        for target in panels[title]["targets"]:
            query = target["expr"].replace("$__rate_interval", prometheus.RATE_WINDOW)
            query = query.replace("$job", ".*").replace("$service", ".*")
            for series in asked.query_range(query, began, ended, STEP_S):
                times, values = zip(*((when - began, float(value)) for when, value in series["values"]), strict=True)
                if all(map(math.isnan, values)):  # a service that nobody called
                    continue
                axes.plot(times, values, label=_legend(target["legendFormat"], series["metric"]), linewidth=1.2)
        axes.set_title(f"{title} ({panels[title]['fieldConfig']['defaults']['unit']})", loc="left", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, ncols=2)
        axes.set_xlim(0, ended - began)
        axes.set_ylim(bottom=0)
    figure.suptitle(f"{board['title']}: seconds since the first call", fontsize=11)
    figure.savefig(PICTURE)


def _legend(pattern: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        pattern = pattern.replace(f"{{{{{name}}}}}", value)
    return pattern


def _rules() -> str:
    """Gives the rules with windows that fit a minute; what is shown is what they record."""
    return prometheus.hasty_rules()


def _train(name: str, folder: Path) -> None:
    from pipelines import loop, tasks

    task = tasks.find(name)
    loop.run(task, task.config.Config(epochs=1), folder, Place(threads=2))


async def _serve(folder: Path) -> None:
    """Serves the trained models until the process is killed; prints where."""
    import torch

    from pipelines import artifact
    from services.models import Stored, load
    from services.options import Options
    from services.server import Server

    torch.set_num_threads(1)
    places = {task: folder / task / "artifact" for task in TASKS}
    stored = [Stored(task, str(place), 1, f"run-{task}", artifact.verify(place)) for task, place in places.items()]
    server = Server(Options(port=0, metrics_port=0), [load(one) for one in stored], folder / "metrics")
    await server.start()
    print(json.dumps([f"127.0.0.1:{server.port}", f"127.0.0.1:{server.metrics_port}"]), flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, str]]:
    command = [sys.executable, "-m", "benchmarks.dashboards", "--serve", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address, metrics = json.loads(process.stdout.readline())
            yield address, metrics
        finally:
            process.kill()


def _load(address: str, seconds: float) -> None:
    """Calls in waves, with callers that come and go."""
    until = time.monotonic() + seconds
    callers = [threading.Thread(target=_call, args=(address, number, until)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()


def _call(address: str, number: int, until: float) -> None:
    from eagerly.client import CallError, Client, Query, Raw

    chance = random.Random(number)
    with Client(address) as client, Client(address, timeout_s=0.003) as hasty:
        works: list[Any] = [
            lambda: client.classify(
                [Raw(bytes(chance.randrange(17) for _ in range(64)), (8, 8))] * chance.randint(1, 8)
            ),
            lambda: client.analyze(["What a film!", "Never again."][: chance.randint(1, 2)]),
            lambda: client.recommend([Query(item_ids=("1", "2"), k=5)]),
            lambda: client.analyze([]),
            lambda: hasty.analyze(["What a film!"] * 64),
        ]
        for turn in itertools.count():
            if time.monotonic() > until:
                return
            wave = 0.5 + 0.5 * math.sin(time.monotonic() / 8 + number)
            time.sleep(0.002 + 0.06 * wave)
            with contextlib.suppress(CallError):
                wrong = 3 if turn % 97 == 0 else 4 if turn % 301 == 300 else None
                works[chance.choice((0, 0, 0, 1, 1, 2)) if wrong is None else wrong]()


if __name__ == "__main__":
    sys.exit(main())
