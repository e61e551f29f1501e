"""Whether a server under load for a long time keeps its memory, descriptors and threads.

    python -m benchmarks.soak --minutes 30
    python -m benchmarks.soak --minutes 30 --ray 2      two replicas on Ray instead

Server and traffic are processes of their own on loopback. The server writes an access log, which is moved away before
it is large, traces 1 % of the calls and watches drift. Traffic comes at 70 % of the capacity measured just before,
whatever becomes of it: good and bad calls of every service, some cancelled or with hardly any time, over connections
that come and go. After a warm-up the server is sampled once a second; the medians of the first and the last quarter are
compared. Raw results go to benchmarks/results/soak.json; the exit code is 1 when something grew, or a call ended as
none may.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.attacks import Held
from benchmarks.collector import collecting
from benchmarks.fuzz import settings
from benchmarks.target import TASKS, Target, facts, model, reference_of, running
from benchmarks.traffic import Sender, Summary
from eagerly.commands.serve import Serve, serving
from services.metrics import alive_pids
from services.models import Stored

LOAD, CAPACITY_S, SAMPLE_S = 0.7, 5.0, 1.0
MOST_LEFT = 2
"""What descriptors and threads may differ by from one second to another: a connection that is just replaced."""
MOST_LOG_BYTES = 64 * 1024 * 1024
"""Size at which the access log is moved away; the one before it is then gone."""


@dataclass
class Report:
    """What a soak found."""

    seed: int
    capacity_per_s: float
    per_s: float
    """Calls that were sent."""
    summary: Summary
    samples: list[Held]
    growth: float
    """Memory of the last quarter against the first, as a share of it."""
    problems: list[str] = field(default_factory=list)
    """What grew, and what calls ended as none may; empty when all is well."""


def quarters(values: list[float]) -> tuple[float, float]:
    """Finds the medians of the first and the last quarter."""
    length = max(1, len(values) // 4)
    return statistics.median(values[:length]), statistics.median(values[-length:])


def growth(samples: list[Held]) -> float:
    """Finds by which share memory has grown."""
    first, last = quarters([sample.rss_mb for sample in samples])
    return last / first - 1


def leaks(samples: list[Held], most_growth: float) -> list[str]:
    """Says what grew from the first quarter to the last.

    most_growth: share by which memory may grow.
    """
    found = []
    if growth(samples) > most_growth:
        first, last = quarters([sample.rss_mb for sample in samples])
        found.append(f"memory grew from {first:.1f} to {last:.1f} MB, {growth(samples):.1%}; at most {most_growth:.0%}")
    for name in ("descriptors", "threads"):
        first, last = quarters([getattr(sample, name) for sample in samples])
        if last > first + MOST_LEFT:
            found.append(f"{name} grew from {first:.0f} to {last:.0f}")
    return found


def sampled(pids: list[int], seconds: float, every_s: float = SAMPLE_S) -> list[Held]:
    """Samples what processes hold together."""
    samples, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        held = [Held.by(pid) for pid in pids]
        sums = (sum(column) for column in zip(*(astuple(one) for one in held), strict=True))
        samples.append(Held(*sums))
        time.sleep(every_s)
    return samples


@contextlib.contextmanager
def rotated(log: Path, most_bytes: int = MOST_LOG_BYTES, every_s: float = SAMPLE_S) -> Iterator[None]:
    """Moves a file aside whenever it has grown large, as logrotate does; keeps one that was moved."""
    ended = threading.Event()

    def rotate() -> None:
        while not ended.wait(every_s):
            if log.exists() and log.stat().st_size > most_bytes:
                log.replace(log.with_suffix(".1"))

    thread = threading.Thread(target=rotate, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def served(replicas: int) -> Iterator[tuple[Target, list[int]]]:
    """Serves all three services, on Ray unless there are to be no replicas; yields also the servers' processes."""
    with tempfile.TemporaryDirectory() as folder, collecting() as collector:
        log = Path(folder) / "access.jsonl"
        flags = {**settings(), "access_log": str(log), "otlp_endpoint": collector}
        with rotated(log):
            if replicas:
                with _on_ray(Path(folder), replicas, flags) as found:
                    yield found
                return
            with running(models=TASKS, watched=True, **flags) as target:
                yield target, [target.pid]


@contextlib.contextmanager
def _on_ray(folder: Path, replicas: int, flags: dict[str, Any]) -> Iterator[tuple[Target, list[int]]]:
    from pipelines import artifact, reference

    models = {name: model(name) for name in TASKS}

    def save(rough: Path, name: str) -> None:
        models[name].save(rough)
        (rough / reference.FILE).write_text(reference_of(name, models[name]).to_json(), encoding="utf-8")

    digests = {name: artifact.write(folder / name, name, partial(save, name=name)) for name in models}
    stored = [Stored(name, str(folder / name), 1, "soak", digests[name]) for name in models]
    args = Serve(port=0, metrics_port=0, replicas=replicas, threads=1, **flags)
    with serving(args, stored) as endpoint:
        yield facts(int(endpoint.address.rpartition(":")[2]), models), sorted(alive_pids(endpoint.metrics_folder))


def run(
    seconds: float, warm_up_s: float, most_growth: float, seed: int, show: Callable[[str], None], replicas: int = 0
) -> Report:
    """Soaks a server.

    seconds: of sampling, after the warm-up. most_growth: share by which memory may grow. replicas: on Ray; 0 is a
    server without.
    """
    with served(replicas) as (target, pids):
        measured = Sender(target, 0, CAPACITY_S, seed).summary()
        capacity_per_s = measured.count / measured.seconds
        per_s = LOAD * capacity_per_s
        show(f"capacity {capacity_per_s:.0f} calls/s; {per_s:.0f} calls/s for {warm_up_s + seconds:.0f} s")
        sender = Sender(target, per_s, warm_up_s + seconds, seed + 1)
        time.sleep(warm_up_s)
        samples = sampled(pids, seconds - SAMPLE_S)
        summary = sender.summary()
    problems = leaks(samples, most_growth)
    if summary.faults:
        problems.append(f"calls ended as none may: {summary.faults}")
    return Report(seed, capacity_per_s, per_s, summary, samples, growth(samples), problems)


def main() -> int:
    """Soaks a server and prints what it kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="length after the warm-up")
    parser.add_argument("--warm-up-s", type=float, default=300.0)
    parser.add_argument("--most-growth", type=float, default=0.02, help="share by which memory may grow")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray", type=int, default=0, metavar="REPLICAS", help="replicas on Ray; 0 needs no Ray")
    words = parser.parse_args()
    report = run(60 * words.minutes, words.warm_up_s, words.most_growth, words.seed, print, words.ray)
    _print(report)
    kept = Path("benchmarks/results")
    kept.mkdir(exist_ok=True)
    (kept / "soak.json").write_text(json.dumps(asdict(report), indent=2))
    return int(bool(report.problems))


def _print(report: Report) -> None:
    summary = report.summary
    print(
        f"{summary.count} calls, {summary.left_out} left out, {summary.connections} connections, {summary.latency_ms}"
    )
    for code, count in sorted(summary.codes.items()):
        print(f"{code:<28} {count}")
    print("| of the server | first quarter | last quarter |\n|---|---|---|")
    for name, unit in (("rss_mb", " MB"), ("descriptors", ""), ("threads", "")):
        first, last = quarters([getattr(sample, name) for sample in report.samples])
        print(f"| {name.partition('_')[0]} | {first:.1f}{unit} | {last:.1f}{unit} |")
    print(f"memory grew by {report.growth:.2%}, seed {report.seed}")
    print(*(report.problems or ["nothing leaks"]), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
