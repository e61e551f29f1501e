"""A run's checkpoints travel through a local S3 server: to a new machine, and past an outage."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trained import ROOT, python

from pipelines import checkpoint, loop, runs, tasks
from pipelines.journal import Reader
from pipelines.place import Place
from pipelines.saving import Keeping
from pipelines.settings import Launch

KEYS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1"}
SERVER = "from moto.server import main; import sys; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
PARITY = str(ROOT / "examples" / "parity")
HALFWAY = """
import os, signal, sys
from pathlib import Path
from pipelines import local, runs
from pipelines.journal import Journal
append = Journal.append
def watch(self, event):
    append(self, event)
    if event["event"] == "steps" and event["first"] >= 50:
        os.kill(os.getpid(), signal.SIGTERM)
Journal.append = watch
run = runs.reopen(Path(sys.argv[1]))
local.train([run], runs.launched(run.folder))
"""


class Server:
    """moto's S3 server, which forgets everything when it ends."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        with log.open("ab") as out:
            command = [sys.executable, "-c", SERVER, str(self.port)]
            self._process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **KEYS})
        until = time.monotonic() + 100
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        self._call("PUT", "/bucket")

    def listed(self) -> list[str]:
        from xml.etree import ElementTree

        listed = ElementTree.fromstring(self._call("GET", "/bucket?list-type=2"))
        return [str(found.text) for found in listed.iter() if found.tag.endswith("Key")]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            self._call("GET", "/moto-api/")
        except OSError:
            return False
        return True

    def _call(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(f"{self.url}{path}", method=method)
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/s3/aws4_request")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "s3.log")
    yield running
    running.stop()


def _where(server: Server, folder: Path) -> dict[str, str]:
    tracking = f"sqlite:///{folder}/mlflow.db"
    return {**KEYS, "AWS_ENDPOINT_URL": server.url, "MLFLOW_TRACKING_URI": tracking, "PYTHONPATH": str(ROOT)}


def _events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in Reader(folder).new_events() if event["event"] == kind]


def test_a_run_that_was_stopped_goes_on_on_a_machine_that_has_nothing_of_it(tmp_path: Path, server: Server) -> None:
    where, task = _where(server, tmp_path), tasks.find(PARITY)
    how = Launch(local=True, threads=1, checkpoint_steps=10, storage="s3://bucket/runs")
    first = runs.create(PARITY, task, task.config.Config(epochs=4), how, tmp_path / "old" / "run")
    stopped = python("-c", HALFWAY, str(first.folder), folder=tmp_path, **where)
    assert "Stopped" in stopped.stderr, stopped.stderr
    step = _events(first.folder, "stopped")[0]["step"]
    shutil.rmtree(first.folder)
    assert {"runs/run/run.json", "runs/run/journal.jsonl"} <= {*server.listed()}

    (tmp_path / "new").mkdir()
    resumed = python("-m", "eagerly", "train", "--resume", "s3://bucket/runs/run", folder=tmp_path / "new", **where)
    assert resumed.returncode == 0, resumed.stderr
    folder = tmp_path / "new" / "runs" / "run"
    assert [event["step"] for event in _events(folder, "resume")] == [step]
    whole: list[dict[str, Any]] = []
    loop.run(task, task.config.Config(epochs=4), tmp_path, Place(), whole.append)
    digests = [event["digest"] for event in whole if event["event"] == "state"]
    assert [event["digest"] for event in _events(folder, "state")] == digests
    kept = {place.name for place in checkpoint.whole(folder / "checkpoints")}
    assert {key.split("/")[3] for key in server.listed() if "/checkpoints/step" in key} == kept
    assert "runs/run/artifact/MANIFEST.json" in server.listed()


def test_a_storage_that_is_away_stops_no_training_and_is_said(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    for name, value in _where(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    events: list[dict[str, Any]] = []
    task, keeping = tasks.find(PARITY), Keeping(storage="s3://bucket/runs")
    loop.run(task, task.config.Config(epochs=2), tmp_path / "run", Place(), events.append, keeping=keeping)
    said = [event["problem"] for event in events if event["event"] == "storage"]
    assert len(said) == 1 and "'s3://bucket/runs' cannot be reached or written" in said[0]
    assert [event["event"] for event in events if event["event"] in ("state", "test")] == ["state", "test"]
    assert checkpoint.whole(tmp_path / "run" / "checkpoints")
