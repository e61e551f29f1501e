"""`eagerly train --local`, from the command to the registry, in a process of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trained import ROOT, Trained, python

from pipelines import artifact, journal, registry, tracking

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
NOWHERE = "http://127.0.0.1:9"


def _client() -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking.uri())


def test_a_run_ends_with_its_metrics_run_and_version(trained_alone: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained_alone.folder}/mlflow.db")
    result = trained_alone.result
    assert result.returncode == 0, result.stderr
    version = registry.champion("classifier")
    assert f"MLflow run     {version.run_id} in sqlite:" in result.stdout
    assert "model version  classifier 1, champion, as there was none" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["test", "accuracy", f"{version.metrics['accuracy']:.4f}"] in rows
    assert artifact.verify(trained_alone.run_dir / "artifact") == version.digest
    assert "] registering" in result.stderr and "Traceback" not in result.stderr


def test_the_run_has_system_metrics(trained_alone: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained_alone.folder}/mlflow.db")
    metrics = _client().get_run(registry.champion("classifier").run_id).data.metrics
    assert any(name.startswith("system/cpu") for name in metrics)


def test_a_tracker_that_is_down_stops_no_training_and_recording_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-m", "eagerly", "train", str(ROOT / "examples" / "linear_regression"), "--local", "--lr", "0.5"]
    down = python(*words, "--tracker-patience", "1", folder=tmp_path, MLFLOW_TRACKING_URI=NOWHERE)
    assert down.returncode == 1
    (run_dir,) = (tmp_path / "runs").iterdir()
    artifact.verify(run_dir / "artifact")
    last = down.stderr.strip().splitlines()[-1]
    assert last.startswith(f"eagerly: the run in '{run_dir}' is not in MLflow: MLflow at {NOWHERE} does not answer (")
    assert last.endswith(f"its model is in the folder, and `eagerly record {run_dir}` records it later")
    assert list((run_dir / "tensorboard").iterdir())

    again = python("-m", "eagerly", "record", str(run_dir), folder=tmp_path)
    assert again.returncode == 0, again.stderr
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    version = registry.champion("linear_regression")
    assert version.version == 1
    history = _client().get_metric_history(version.run_id, "train/loss")
    assert [metric.step for metric in history] == list(range(1000))


def test_an_interrupted_run_says_so_and_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", str(ROOT / "examples" / "parity"), "--local", "--epochs", "9999", "--run-dir", "run"]
    command = [sys.executable, "-m", "eagerly", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with _running(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        _until((tmp_path / "run" / "mlflow.json").exists)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "eagerly: interrupted"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment["MLFLOW_TRACKING_URI"])
    run_id = json.loads((tmp_path / "run" / "mlflow.json").read_text())["run_id"]
    _until(lambda: not _processes_that_mention(str(tmp_path)))  # the recorder is not waited for for long
    assert _client().get_run(run_id).info.status == "KILLED"


def test_an_interrupted_run_leaves_soon_where_its_tracker_hangs_and_says_what_brings_the_rest_in(
    tmp_path: Path,
) -> None:
    words = ["train", str(ROOT / "examples" / "parity"), "--local", "--epochs", "9999", "--run-dir", "run"]
    command = [sys.executable, "-m", "eagerly", *words]
    with socket.create_server(("127.0.0.1", 0)) as silent, (tmp_path / "said").open("w") as said:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": where}
        environment |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        with _running(command, cwd=tmp_path, env=environment, stderr=said) as process:
            _until(lambda: f"MLflow at {where} does not answer" in (tmp_path / "said").read_text())
            _until(lambda: journal.has_begun(tmp_path / "run"))
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(60)
            seconds = time.monotonic() - began
        lines = (tmp_path / "said").read_text().splitlines()
        assert lines[-1] == "eagerly: interrupted"
        assert f"`eagerly record {tmp_path}/run` brings it in" in lines[-2]
        assert seconds < 30
        _until(lambda: not _processes_that_mention(str(tmp_path)))


@contextlib.contextmanager
def _running(command: list[str], **how: Any) -> "Iterator[subprocess.Popen[str]]":
    """Runs a command, which is killed if it is still there at the end."""
    with subprocess.Popen(command, **how) as process:
        try:
            yield process
        finally:
            process.kill()


def _until(true: Callable[[], object], patience_seconds: float = 90) -> None:
    end = time.monotonic() + patience_seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def _processes_that_mention(text: str) -> list[int]:
    import psutil

    return [found.pid for found in psutil.process_iter(["cmdline"]) if text in " ".join(found.info["cmdline"] or [])]
