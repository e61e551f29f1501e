"""An MLflow server killed for a minute in mid-run: one run, no point missing or doubled, and training never waits.

    python -m benchmarks.tracker_outage            a run of about 2.5 minutes, the server away for 60 s of them
    python -m benchmarks.tracker_outage --quick    away for 5 s, as the tests do

A real `mlflow server` is killed (SIGKILL, with its workers) while `eagerly train --local` trains, and started again on
the same store. The recorder is killed too: once while the server is away, once after. The training is then
interrupted, and its journal compared with what the server has, point by point, timestamps and values included;
`eagerly record` must add nothing. The ratio is of the median step while the server was away to that of the time
around it, in windows of half a second; its interval is a bootstrap over the windows.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import runs
from eagerly import table
from pipelines.points import Once, Point, Points
from services import ports

RESULTS = Path("benchmarks/results/tracker_outage.json")
FLAGS = ["--arch", "convnet", "--batch-size", "64", "--epochs", "100000", "--threads", "1"]
LIMIT = 1.05
PATIENCE_S = 120.0
SETTLE_S = 10.0
"""After the recorder's import of mlflow and before the outage, so that no import is part of the comparison."""


class Server:
    """A real MLflow server with a store of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        """Chooses a free port; nothing runs yet."""
        self._folder, self.port = folder, ports.find("127.0.0.1", 0, "--port")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """What MLFLOW_TRACKING_URI must be."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        wait_for(self._answers, "the MLflow server to answer")

    def kill(self) -> None:
        """Kills the server and its workers, as a machine that goes away does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            return True
        return False


@dataclass(frozen=True)
class Outcome:
    """What a run with an outage came to."""

    run_count: int
    points: int
    missing: int
    doubled: int
    outage_s: float
    steps_away: int
    ratio: float
    low: float
    high: float
    longest_gap_s: float
    """Longest time between two entries of the journal while the server was away."""

    @property
    def holds(self) -> bool:
        """Whether all that is promised was seen."""
        return (self.run_count, self.missing, self.doubled) == (1, 0, 0) and self.steps_away > 0 and self.low <= LIMIT


def wait_for(there: Callable[[], bool], what: str) -> None:
    """Waits until something is there; ends the benchmark when it takes too long."""
    until = time.monotonic() + PATIENCE_S
    while not there():
        if time.monotonic() > until:
            sys.exit(f"waited {PATIENCE_S:.0f} s in vain for {what}")
        time.sleep(0.1)


def play(folder: Path, outage_s: float, around_s: float) -> Outcome:
    """Trains through an outage, with `around_s` seconds before and after it, and compares."""
    server, run_dir = Server(folder), folder / "run"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.uri}
    server.start()
    command = [sys.executable, "-m", "eagerly", "train", "classifier", "--local", "--run-dir", str(run_dir), *FLAGS]
    with (folder / "train.log").open("wb") as log:
        training = subprocess.Popen(command, cwd=folder, env=environment, stderr=log, stdout=log)
    try:
        wait_for((run_dir / "mlflow.json").exists, "the run to be in MLflow")
        time.sleep(around_s)
        server.kill()
        away = time.time()
        time.sleep(outage_s / 2)
        _kill_recorder(training.pid)
        time.sleep(max(0.0, away + outage_s - time.time()))
        back = time.time()
        server.start()
        time.sleep(around_s / 2)
        _kill_recorder(training.pid)
        time.sleep(around_s / 2)
        training.send_signal(signal.SIGINT)
        training.wait(PATIENCE_S)
        runs.execute(["-m", "eagerly", "record", str(run_dir)], folder, environment)
        return _judge(run_dir, server, away, back, around_s)
    finally:
        training.kill()
        training.wait()
        server.kill()


def _kill_recorder(parent: int) -> None:
    import psutil

    def find() -> list[psutil.Process]:
        children = psutil.Process(parent).children()
        return [child for child in children if "pipelines.recorder" in " ".join(child.cmdline())]

    wait_for(lambda: bool(find()), "a recorder")
    find()[0].kill()


def compare(kept: Counter[Any], stored: Counter[Any]) -> tuple[int, int]:
    """Counts the points that are missing, and those that are there too often or should not be there."""
    return sum((kept - stored).values()), sum((stored - kept).values())


def _judge(run_dir: Path, server: Server, away: float, back: float, around_s: float) -> Outcome:
    run_count, stored = _stored(server)
    journal = runs.everything(run_dir)
    kept = Counter(_expected(journal))
    windows = [event for event in journal if event["event"] == "steps"]
    inside = [_step_ms(event) for event in windows if away + 0.5 < event["time"] < back]
    near = [event for event in windows if away - around_s < event["time"] < away or event["time"] > back + around_s / 2]
    low, ratio, high = _ratio(inside, [_step_ms(event) for event in near])
    times = [away, *(event["time"] for event in journal if away < event["time"] < back), back]
    gap = max(later - earlier for earlier, later in itertools.pairwise(times))
    missing, doubled = compare(kept, stored)
    steps = sum(len(event["losses"]) for event in windows if away < event["time"] < back)
    return Outcome(run_count, sum(kept.values()), missing, doubled, back - away, steps, ratio, low, high, gap)


def _expected(journal: list[dict[str, Any]]) -> list[tuple[str, int, int, float]]:
    points, once = Points(), Once()
    found: list[Point] = []
    for event in journal:
        found += once.take(points.take(event))
    return [(point.name, point.step, int(point.time * 1000), point.value) for point in found]


def _stored(server: Server) -> tuple[int, Counter[tuple[str, int, int, float]]]:
    """Asks the server for its runs, and for the points of the newest but those of the machine's load."""
    import mlflow

    client = mlflow.MlflowClient(server.uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    found = client.search_runs(experiments)
    points: Counter[tuple[str, int, int, float]] = Counter()
    for name in found[0].data.metrics if found else ():
        if not name.startswith("system/"):
            history = client.get_metric_history(found[0].info.run_id, name)
            points.update((name, one.step, one.timestamp, one.value) for one in history)
    return len(found), points


def _step_ms(event: dict[str, Any]) -> float:
    return 64e3 / event["examples_per_second"]


def _ratio(inside: list[float], around: list[float]) -> tuple[float, float, float]:
    """Gives the ratio of medians with the bounds of its 95 % interval: low, ratio, high."""
    if not inside or not around:
        return 0.0, 0.0, 0.0
    source = random.Random(0)
    drawn = sorted(
        statistics.median(source.choices(inside, k=len(inside)))
        / statistics.median(source.choices(around, k=len(around)))
        for _ in range(2000)
    )
    return drawn[50], statistics.median(inside) / statistics.median(around), drawn[1949]


def main() -> None:
    """Plays one outage; exits with 1 when something was missing, doubled or slower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the server is away for 5 s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eagerly-outage-") as folder:
        outcome = play(Path(folder), *(5.0, 6.0) if arguments.quick else (60.0, 40.0 + SETTLE_S))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(vars(outcome), indent=2))
    rows = [(name.replace("_", " "), value) for name, value in vars(outcome).items()]
    print(table.render(("server away", "value"), rows))
    said = f"{outcome.points} points, {outcome.missing} missing, {outcome.doubled} doubled, {outcome.run_count} run"
    print(f"{said}; step {outcome.ratio:.3f} ({outcome.low:.3f} to {outcome.high:.3f}) of that with the server there")
    sys.exit(not outcome.holds)


if __name__ == "__main__":
    main()
