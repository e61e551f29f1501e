"""The command itself is killed without warning, and `--resume` brings the run to the end that it would have had."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import training
from training import PARITY, ROOT

from pipelines import checkpoint
from pipelines.journal import Event, Reader

FLAGS: dict[str, Any] = {"epochs": 20, "dropout": 0.1}
"""500 steps."""
WORDS = ["--local", "--threads=1", "--checkpoint-steps=5", *(f"--{name}={value}" for name, value in FLAGS.items())]
UNRECORDED = ["--tracker-patience=0", "--no-tensorboard"]
NOWHERE = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
KILL_STEP, PATIENCE_SECONDS = 100, 120


def events(run_dir: Path, *kinds: str) -> list[Event]:
    return [event for event in Reader(run_dir).new_events() if event["event"] in kinds]


def untimed(found: list[Event]) -> list[Event]:
    return [{name: value for name, value in event.items() if name != "time"} for event in found]


def kill_at(driver: "subprocess.Popen[Any]", run_dir: Path) -> None:
    """Kills the driver once the run has logged a step."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(event["first"] >= KILL_STEP for event in events(run_dir, "steps")):
        assert driver.poll() is None and time.monotonic() < deadline, "the run did not get to the step"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait(PATIENCE_SECONDS) == -signal.SIGKILL


def test_a_driver_that_is_killed_and_resumed_ends_bit_identical(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    how: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, **NOWHERE, "PYTHONPATH": str(ROOT)}}
    command = [sys.executable, "-m", "eagerly", "train"]
    words = [*command, PARITY, "--run-dir", "run", *WORDS, *UNRECORDED]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how) as driver:
        kill_at(driver, run_dir)
    newest = checkpoint.step_of(checkpoint.whole(run_dir / "checkpoints")[-1].name)
    assert newest > 0 and not events(run_dir, "testing")

    again = [*command, "--resume", "run"]
    done = subprocess.run(again, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, **how)
    assert "its model is in the folder, and `eagerly record" in done.stderr, done.stderr[-2000:]
    (resume,) = events(run_dir, "resume")
    assert (resume["step"], resume["problems"], resume["inexact"]) == (newest, [], [])
    whole = training.train(tmp_path / "whole", PARITY, checkpoint_steps=5, **FLAGS)
    assert untimed(events(run_dir, "state")) == whole.named("state")
    assert untimed(events(run_dir, "test")) == whole.named("test")
