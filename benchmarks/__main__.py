"""Runs the commands of the README's figures, one after the other: several hours on two cores with nothing else running.

`make bench` goes on when a command fails, and says at the end which did. What they need besides eagerly (ghz, wrk, data
sets in the folder of EAGERLY_TEST_DATA, a package index) is told in docs/benchmarks.md, which names the commands of
the other figures too.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

FIGURES = (
    "python -m benchmarks.demo_time",
    "python -m benchmarks.mnist accuracy",
    "python -m benchmarks.mnist time",
    "python -m benchmarks.ddp losses",
    "python -m benchmarks.ray_overhead --pairs 5",
    "python -m benchmarks.sentiment scratch",
    "python -m benchmarks.sentiment encoder --amp",
    "python -m benchmarks.recommender",
    "python -m benchmarks.kills --kills 100 --seed 20261125",
    "python -m benchmarks.elastic",
    "python -m benchmarks.serving --pairs 12 --starts 3 --seconds 1",
    "python -m benchmarks.serving --pairs 18 --starts 6 --seconds 1.2 --all",
    "PEER_PATHS=exact python -m benchmarks.peers --model convnet --seconds 0.8",
    "PEER_PATHS=exact python -m benchmarks.peers --model encoder",
    "python -m benchmarks.peers --model encoder --seconds 1",
    "python -m benchmarks.rivals --tasks classifier --epochs 40 --pairs 6",
    "python -m benchmarks.tracker_outage",
    "python -m benchmarks.submit --pairs 5",
    "python -m benchmarks.recovery --pairs 5",
    "python -m benchmarks.ledger",
    "python -m benchmarks.swap",
    "python -m benchmarks.serve_start --pairs 3",
)
"""The second column of the README's table, row by row."""


def main(figures: Sequence[str] = FIGURES) -> int:
    """Runs each figure's command; returns 1 when one ended with an error."""
    failed = []
    for line in figures:
        print(f"\n== {line}", flush=True)
        if _run(line):
            failed.append(line)
    if failed:
        print("\nover the limit or failed:", *failed, sep="\n", flush=True)
    return int(bool(failed))


def _run(line: str) -> int:
    """Runs a command as a shell would, variables before it included, with this Python; returns its exit code."""
    words = shlex.split(line)
    program = words.index("python")
    settings = {name: value for name, _, value in (word.partition("=") for word in words[:program])}
    command = [sys.executable, *words[program + 1 :]]
    return subprocess.run(command, env=os.environ | settings, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
