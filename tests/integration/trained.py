"""The command in a process of its own, as integration tests call it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines.journal import Reader

ROOT = Path(__file__).resolve().parents[2]
PLAIN = "--arch article --optimizer sgd --schedule constant --lr 0.05 --batch-size 64 --weight-decay 0 --dropout 0"
"""The classifier without anything random but the order of its examples; two epochs are 46 steps."""
FLAGS = [*PLAIN.split(), "--label-smoothing", "0", "--no-augment", "--epochs", "2", "--threads", "1"]


@dataclass(frozen=True)
class Trained:
    """A run that was trained in processes of its own."""

    folder: Path
    """The working folder, with the MLflow store."""
    result: subprocess.CompletedProcess[str]

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"


def losses(run_dir: Path) -> list[float]:
    """Reads the loss of every step from a run's journal."""
    events = Reader(run_dir).new_events()
    return [loss for event in events if event["event"] == "steps" for loss in event["losses"]]


def python(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python WORDS` in a working folder, with a store of its own unless the environment names another."""
    clean = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    together = {**clean, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=together, capture_output=True, text=True, timeout=240, check=False)
