"""Proves at length that serving and training lose nothing and cannot be broken: some hour and a quarter on two cores.

    python -m benchmarks.nightly            make nightly
    python -m benchmarks.nightly --quick    the same in small, about five minutes

Runs all parts below, one after the other, and goes on when one fails. Raw results of all go to
benchmarks/results/nightly.json; the exit code is 1 when one failed. The seed is the day's date unless given: with the
seed that is printed, a night's calls and events are drawn again.
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eagerly import table

RESULTS = Path("benchmarks/results")
UNTIMELY_S = 60.0
"""Seconds that a part has to end its servers when its time is over, until it is killed."""


@dataclass(frozen=True)
class Part:
    """A benchmark, at length and in small."""

    name: str
    full: str
    quick: str
    limit_s: float
    """Seconds after which it is ended, and has failed."""
    seeded: bool = True


PARTS = (
    Part("fuzz", "--count 100000", "--count 2000", 3600),
    Part(
        "ledger",
        "--kills 20 --updates 5 --swaps 5 --outages 3 --scalings 3",
        "--kills 2 --updates 1 --swaps 1 --outages 1 --scalings 1",
        3600,
    ),
    Part("soak", "--minutes 30", "--minutes 0.75 --warm-up-s 20 --most-growth 0.05", 2700),
    Part("attacks", "--seconds 10 --rounds 3", "--seconds 2 --rounds 1", 2700, seeded=False),
    Part("swap", "--swaps 5", "--swaps 2", 900, seeded=False),
    Part("tracker_outage", "", "--quick", 900, seeded=False),
    Part("kills", "--kills 100", "--kills 12", 2700),
    Part("elastic", "--epochs 40", "--epochs 30", 900, seeded=False),
    Part("elastic", "--epochs 40 --notice", "--epochs 30 --notice", 900, seeded=False),
    Part("orphans", "--workers 2", "--workers 1", 900, seeded=False),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a part."""

    name: str
    command: str
    seed: int | None
    seconds: float
    code: int
    """Its exit code; negative when it was ended."""
    said: str
    """The last line that it printed."""
    figures: Any
    """What it wrote to its own file of results; None when it wrote none."""


@dataclass(frozen=True)
class Task:
    """A part as it is run this night."""

    name: str
    command: list[str]
    limit_s: float
    seed: int | None = None


def tasks(quick: bool, seed: int) -> list[Task]:
    """Lists what is to be run."""
    listed = []
    for part in PARTS:
        own = ["--seed", str(seed)] if part.seeded else []
        words = (part.quick if quick else part.full).split()
        command = [sys.executable, "-m", f"benchmarks.{part.name}", *words, *own]
        listed.append(Task(part.name, command, part.limit_s, seed if part.seeded else None))
    return listed


def play(task: Task, results: Path) -> Outcome:
    """Runs a part and shows what it prints; one that takes longer than its limit is interrupted, then killed."""
    own, began, said = results / f"{task.name}.json", time.monotonic(), ""
    own.unlink(missing_ok=True)
    with subprocess.Popen(task.command, stdout=subprocess.PIPE, text=True) as process:
        clocks = [
            threading.Timer(task.limit_s, process.send_signal, [signal.SIGINT]),
            threading.Timer(task.limit_s + UNTIMELY_S, process.kill),
        ]
        for clock in clocks:
            clock.start()
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said = line.strip() or said
        code = process.wait()
        for clock in clocks:
            clock.cancel()
    seconds = time.monotonic() - began
    figures = json.loads(own.read_text()) if own.exists() else None
    return Outcome(task.name, " ".join(task.command[1:]), task.seed, seconds, code, said, figures)


def night(listed: list[Task], results: Path) -> list[Outcome]:
    """Runs parts in turn, whatever becomes of those before, and keeps what is known after each."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it, and so would parts
    results.mkdir(exist_ok=True)
    outcomes = []
    for task in listed:
        print(f"\n== {' '.join(task.command[1:])}", flush=True)
        outcomes.append(play(task, results))
        (results / "nightly.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    return outcomes


def report(outcomes: list[Outcome]) -> str:
    """Lays out a row for each part."""
    rows = [
        [one.name, "failed" if one.code else "passed", one.code, f"{one.seconds / 60:.1f}", one.said[:100]]
        for one in outcomes
    ]
    return table.render(["part", "", "exit code", "minutes", "said at its end"], rows)


def main(words: list[str], planned: Callable[[bool, int], list[Task]] = tasks, results: Path = RESULTS) -> int:
    """Runs all parts; returns 1 when one failed.

    planned: lists them, given whether to be quick, and the seed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="everything in small")
    parser.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")))
    parser.add_argument("--only", nargs="+", default=[""], help="parts whose name contains one of these")
    arguments = parser.parse_args(words)
    print(f"seed {arguments.seed}", flush=True)
    listed = [
        task for task in planned(arguments.quick, arguments.seed) if any(word in task.name for word in arguments.only)
    ]
    outcomes = night(listed, results)
    print(f"\n{report(outcomes)}")
    return int(any(outcome.code for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
