"""Whether a server under load for a long time keeps its memory, descriptors and threads.

    python -m benchmarks.soak --minutes 30

Server and traffic are processes of their own on loopback. Traffic comes at 70 % of the capacity measured just before,
whatever becomes of it: good and bad calls of every service, some cancelled or with hardly any time, over connections
that come and go. After a warm-up the server is sampled once a second; the medians of the first and the last quarter are
compared. Raw results go to benchmarks/results/soak.json; the exit code is 1 when something grew, or a call ended as
none may.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.attacks import Held
from benchmarks.fuzz import settings
from benchmarks.target import running
from benchmarks.traffic import Sender, Summary

LOAD, CAPACITY_S, SAMPLE_S = 0.7, 5.0, 1.0
MOST_LEFT = 2
"""What descriptors and threads may differ by from one second to another: a connection that is just replaced."""


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


def sampled(pid: int, seconds: float, every_s: float = SAMPLE_S) -> list[Held]:
    """Samples a process."""
    samples, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        samples.append(Held.by(pid))
        time.sleep(every_s)
    return samples


def run(seconds: float, warm_up_s: float, most_growth: float, seed: int, show: Callable[[str], None]) -> Report:
    """Soaks a server without Ray.

    seconds: of sampling, after the warm-up. most_growth: share by which memory may grow.
    """
    with running(**settings()) as target:
        measured = Sender(target, 0, CAPACITY_S, seed).summary()
        capacity_per_s = measured.count / measured.seconds
        per_s = LOAD * capacity_per_s
        show(f"capacity {capacity_per_s:.0f} calls/s; {per_s:.0f} calls/s for {warm_up_s + seconds:.0f} s")
        sender = Sender(target, per_s, warm_up_s + seconds, seed + 1)
        time.sleep(warm_up_s)
        samples = sampled(target.pid, seconds - SAMPLE_S)
        summary = sender.summary()
    problems = leaks(samples, most_growth)
    if summary.faults:
        problems.append(f"calls ended as none may: {summary.faults}")
    return Report(seed, capacity_per_s, per_s, summary, samples, growth(samples), problems)


def main() -> int:
    """Soaks a server and prints what it kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="length after the warm-up")
    parser.add_argument("--warm-up-s", type=float, default=60.0)
    parser.add_argument("--most-growth", type=float, default=0.02, help="share by which memory may grow")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    report = run(60 * words.minutes, words.warm_up_s, words.most_growth, words.seed, print)
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
