"""What attacks on the port cost others, and whether the server gets its memory, descriptors and threads back.

    python -m benchmarks.attacks --seconds 10

Loopback only. Server, attacker and a well-behaved caller at 100 calls/s are processes of their own on the same cores.
For each attack the caller is measured quiet, then during, and then every connection of the attacker is closed; of
several such rounds the one whose ratio is the median counts, for such machines are noisy. Raw results go to
benchmarks/results/attacks.json.
"""

import argparse
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.assaults import Assault, assaults
from benchmarks.bystander import Bystander
from benchmarks.target import Target, running

MOST_SLOWER, MOST_GROWTH_MB, MOST_LEFT = 2.0, 50.0, 4
"""The limits: p99 during against quiet, memory kept, descriptors and threads kept."""
RECOVERY_S = 30.0
"""Seconds the server has to get back what an attack took."""


@dataclass(frozen=True)
class Held:
    """What the server holds."""

    rss_mb: float
    descriptors: int
    threads: int

    @classmethod
    def by(cls, pid: int) -> "Held":
        """Reads it from the kernel."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        descriptors = len([*Path(f"/proc/{pid}/fd").iterdir()])
        return cls(int(fields["VmRSS"].split()[0]) / 1024, descriptors, int(fields["Threads"]))


@dataclass(frozen=True)
class Outcome:
    """What one attack did."""

    name: str
    sent: int
    unit: str
    cut_off: int
    """Connections that the server closed."""
    seconds: float
    quiet_p99_ms: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Calls of the caller that were not answered."""
    before: Held
    peak_mb: float
    after: Held

    @property
    def kept(self) -> bool:
        """Whether every limit was kept."""
        back = self.after.rss_mb - self.before.rss_mb <= MOST_GROWTH_MB and not self.failed
        left = max(self.after.descriptors - self.before.descriptors, self.after.threads - self.before.threads)
        return back and left <= MOST_LEFT and self.p99_ms <= MOST_SLOWER * self.quiet_p99_ms


class Watch(threading.Thread):
    """Notes the most memory that a process takes."""

    def __init__(self, pid: int) -> None:
        """Starts to look, ten times a second."""
        super().__init__(daemon=True)
        self._pid = pid
        self._stopped = threading.Event()
        self.peak_mb = 0.0
        self.start()

    def run(self) -> None:
        """Looks until close()."""
        while not self._stopped.wait(0.1):
            self.peak_mb = max(self.peak_mb, Held.by(self._pid).rss_mb)

    def close(self) -> None:
        """Stops looking."""
        self._stopped.set()
        self.join()


@dataclass(frozen=True)
class Round:
    """The caller measured quiet, then during an attack."""

    sent: int
    cut_off: int
    seconds: float
    quiet_ms: list[float]
    during_ms: list[float]
    peak_mb: float

    @property
    def slower(self) -> float:
        """How many times the quiet p99 the p99 during the attack is."""
        return quantile(self.during_ms, 0.99) / quantile(self.quiet_ms, 0.99)


def measure(assault: Assault, target: Target, seconds: float, rounds: int) -> Outcome:
    """Carries out one attack several times; latencies are those of the round whose ratio is the median."""
    before, done = Held.by(target.pid), []
    after = before
    for _ in range(rounds):
        done.append(_round(assault, target, seconds))
        after = recovered(target.pid, before)
    middle = sorted(done, key=lambda one: one.slower)[(rounds - 1) // 2]
    failed = sum(taken == float("inf") for one in done for taken in one.during_ms)
    at = (quantile(middle.quiet_ms, 0.99), quantile(middle.during_ms, 0.5), quantile(middle.during_ms, 0.99))
    what = (assault.name, middle.sent, assault.unit, middle.cut_off, middle.seconds)
    return Outcome(*what, *at, failed, before, max(one.peak_mb for one in done), after)


def _round(assault: Assault, target: Target, seconds: float) -> Round:
    quiet_ms = Bystander(target.address, seconds).latencies_ms()
    watch, bystander = Watch(target.pid), Bystander(target.address, seconds)
    began = time.monotonic()
    sent, cut_off = assault.run(target.address, seconds, threading.Event())
    took_s, during_ms = time.monotonic() - began, bystander.latencies_ms()
    watch.close()
    return Round(sent, cut_off, took_s, quiet_ms, during_ms, watch.peak_mb)


def quantile(values: list[float], share: float) -> float:
    """Finds the value that a share of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def recovered(pid: int, before: Held) -> Held:
    """Waits until the server has got back what it had, or its time is up."""
    ends = time.monotonic() + RECOVERY_S
    while True:
        held = Held.by(pid)
        back = held.descriptors <= before.descriptors and held.threads <= before.threads
        if (back and held.rss_mb - before.rss_mb < MOST_GROWTH_MB) or time.monotonic() > ends:
            return held
        time.sleep(0.2)


def main() -> int:
    """Measures every attack and prints the table; returns 1 when a limit was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each attack")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is carried out; the median counts")
    parser.add_argument("--only", default="", help="attacks whose name contains this")
    arguments = parser.parse_args()
    outcomes = []
    with running(models=["classifier"]) as target:
        Bystander(target.address, 2).latencies_ms()
        for assault in assaults():
            if arguments.only in assault.name:
                outcomes.append(measure(assault, target, arguments.seconds, arguments.rounds))
                print(f"{assault.name}: {'kept' if outcomes[-1].kept else 'NOT kept'}", file=sys.stderr, flush=True)
    _report(outcomes)
    kept = Path("benchmarks/results")
    kept.mkdir(exist_ok=True)
    (kept / "attacks.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    return int(not all(outcome.kept for outcome in outcomes))


def _report(outcomes: list[Outcome]) -> None:
    """Prints a row for each attack."""
    print(
        "| attack | sent /s | cut off | p99 ms quiet | during | failed | RSS MB | peak | after | fds | threads | kept |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for one in outcomes:
        before, after = one.before, one.after
        print(
            f"| {one.name} | {one.sent / one.seconds:.0f} {one.unit} | {one.cut_off} | {one.quiet_p99_ms:.1f} "
            f"| {one.p99_ms:.1f} | {one.failed} | {before.rss_mb:.0f} | {one.peak_mb:.0f} | {after.rss_mb:.0f} "
            f"| {before.descriptors} to {after.descriptors} | {before.threads} to {after.threads} "
            f"| {'yes' if one.kept else 'no'} |"
        )
    broken = [one.name for one in outcomes if not one.kept]
    print(f"{len(outcomes)} attacks, limits not kept: {', '.join(broken) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
