"""What benchmarks read from run folders."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipelines.journal import Reader


def execute(words: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    """Runs Python with `words` in a folder; ends the benchmark with what it complained of when it fails."""
    settings = {**os.environ, **(environment or {})}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")


def everything(folder: Path) -> list[dict[str, Any]]:
    """Lists the journal's events."""
    return list(Reader(folder).new_events())


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Lists the journal's events of a kind."""
    return [event for event in Reader(folder).new_events() if event["event"] == kind]


def losses(folder: Path) -> list[float]:
    """Lists the loss of every step."""
    return [loss for event in events(folder, "steps") for loss in event["losses"]]


def test_metrics(folder: Path) -> dict[str, float]:
    """Gives the metrics of the test split."""
    return events(folder, "test")[-1]["metrics"]


def step_ms(folder: Path, batch_size: int) -> list[float]:
    """Lists the milliseconds a step took, a figure for each step, constant within a logging window."""
    found = [(event["examples_per_second"], len(event["losses"])) for event in events(folder, "steps")]
    return [batch_size / speed * 1e3 for speed, steps in found for _ in range(steps)]
