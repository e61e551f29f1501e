"""A start waits so long for a champion that does not come, and no longer, whatever its download does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from services.follower import environment
from services.models import Stored
from services.store import Store

URI = "sqlite:////nowhere/mlflow.db"
START = """
import runpy, time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pipelines import registry
from services import patience
pool, within = ThreadPoolExecutor(1), patience.within
def hang(task):  # as MLflow downloads, on threads that a process waits for at its end
    for one in as_completed([pool.submit(time.sleep, 60)]):
        one.result()
registry.aim, patience.within = hang, lambda seconds: within(seconds / 100)
runpy.run_module("services.watcher", run_name="__main__", alter_sys=True)
"""


def test_a_start_does_not_wait_for_the_threads_of_a_download_that_hangs(tmp_path: Path):
    store = Store(str(tmp_path), URI)
    folder = store.place("sentiment", 1, "a" * 64)
    folder.mkdir(parents=True)
    store.publish(Stored("sentiment", str(folder), 1, "run-1", "a" * 64))
    command = [sys.executable, "-c", START, "--home", store.home, "--once", "sentiment"]
    where = {**environment(), "MLFLOW_TRACKING_URI": URI}
    began = time.monotonic()
    ended = subprocess.run(command, env=where, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - began < 40
    told = json.loads(ended.stdout)
    assert told["stored"]["version"] == 1
    assert told["note"] == "sentiment stays at version 1, the last that served here: no answer within 0 s"


def test_a_start_that_fails_says_why_and_ends_with_2(tmp_path: Path):
    where = {**environment(), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/none.db"}
    command = [sys.executable, "-m", "services.watcher", "--home", os.fspath(tmp_path), "--once", "sentiment"]
    ended = subprocess.run(command, env=where, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 2
    assert "no champion for sentiment" in ended.stderr.splitlines()[-1]
    assert not ended.stdout
