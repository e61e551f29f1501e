"""A process that is killed while it writes a checkpoint: the run goes on, and ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import training
from training import PARITY

from pipelines import checkpoint

FLAGS: dict[str, Any] = {"epochs": 2, "dropout": 0.1, "checkpoint_steps": 5}
CHILD = f"""
import os, signal, sys
from pathlib import Path
import training
from pipelines import checkpoint, sealed

moments, where = [], sys.argv[2]

def at(moment, place):
    moments.append(moment)
    if moment == where and moments.count(moment) == 3:
        if moment == "tensors":
            os.truncate(place, place.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

save, move = checkpoint.save_file, sealed.move
checkpoint.save_file = lambda tensors, path: (save(tensors, path), at("tensors", Path(path)))

def moved(rough, place):
    is_checkpoint = place.name.startswith("step-")
    is_checkpoint and at("before", place)
    move(rough, place)
    is_checkpoint and at("after", place)

sealed.move = moved
training.train(Path(sys.argv[1]), training.PARITY, **{FLAGS!r})
"""


@pytest.mark.parametrize("moment", ["tensors", "before", "after"])
def test_a_run_goes_on_from_the_last_whole_checkpoint(tmp_path: Path, moment: str) -> None:
    path = os.pathsep.join([str(training.ROOT), str(Path(__file__).parent)])
    command = [sys.executable, "-c", CHILD, str(tmp_path / "run"), moment]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    folder = tmp_path / "run" / "checkpoints"
    assert len(list(folder.glob(".step-*.rough"))) == (moment != "after")
    whole = checkpoint.whole(folder)
    resumed = training.train(tmp_path / "run", PARITY, **FLAGS)
    (event,) = resumed.named("resume")
    assert (event["step"], event["problems"]) == (checkpoint.step_of(whole[-1].name), [])
    undisturbed = training.train(tmp_path / "undisturbed", PARITY, **FLAGS)
    assert resumed.named("state") == undisturbed.named("state") and resumed.metrics == undisturbed.metrics
    assert not list(folder.glob(".*"))
