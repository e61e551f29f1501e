"""Whatever becomes of MLflow's answers, a run is in it once, with every point once."""

import json
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines import recorder, recording, runs, tasks, tracking
from pipelines.journal import Journal
from pipelines.settings import Launch

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
START = {"event": "start", "step": 0, "data": "digits", "data_digest": "0" * 64, "parameters": 3}
CALLS = ("create_run", "create_experiment", "log_batch", "log_inputs", "search_runs", "get_run", "set_terminated")


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(recorder, "POLL_SECONDS", 0.01)
    return tmp_path


def _steps(first: int, losses: list[float]) -> dict[str, Any]:
    return {"event": "steps", "first": first, "losses": losses, "lr": 0.1, "examples_per_second": 5.0}


def _epoch(number: int, step: int, accuracy: float) -> dict[str, Any]:
    return {"event": "epoch", "epoch": number, "step": step, "metrics": {"accuracy": accuracy}}


def _run(folder: Path, *events: dict[str, Any], **launch: Any) -> Path:
    task = tasks.find("classifier")
    where = Launch(local=True, **{"tensorboard": False, **launch})
    run = runs.create("classifier", task, task.config.Config(), where, folder)
    _append(run.folder, *events)
    return run.folder


def _append(folder: Path, *events: dict[str, Any]) -> None:
    journal = Journal(folder)
    for event in events:
        journal.append(event)
    journal.close()


def _record(folder: Path) -> dict[str, Any]:
    closed = threading.Event()
    closed.set()
    return recorder.Recorder(folder).follow(closed)


def _runs() -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=tracking.uri())
    return list(client.search_runs([found.experiment_id for found in client.search_experiments()]))


def _history(name: str) -> list[tuple[int, float]]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=tracking.uri())
    (run,) = _runs()
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name))


@pytest.mark.parametrize("seed", range(2))
def test_answers_that_are_lost_lose_no_point_and_double_none(
    store: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    draw, hit = random.Random(seed), Counter[str]()

    class Lossy(mlflow.MlflowClient):
        """Fails half of its calls, half of these after the store has done what it was asked."""

    def lose(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def lossy(self: Any, *arguments: Any, **named: Any) -> Any:
            moment = draw.random()
            if moment < 0.15:
                raise ConnectionError("refused")
            answer = call(self, *arguments, **named)
            if moment < 0.35:
                hit[name] += 1
                raise ConnectionError("the answer was lost")
            return answer

        return lossy

    for name in CALLS:
        setattr(Lossy, name, lose(name, getattr(mlflow.MlflowClient, name)))
    monkeypatch.setattr(tracking, "LIMIT", 5)
    losses = [1.0 / (step + 1) for step in range(16)]
    run = _run(store / "run", START, _steps(0, losses[:8]), _epoch(0, 8, 0.5), _steps(8, losses[8:]))
    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "MlflowClient", Lossy)
        assert _record(run)["unfinished"]
    assert hit["log_batch"] and sum(hit.values()) >= 3
    assert _history("train/loss") == list(enumerate(losses))
    assert _history("valid/accuracy") == [(8, 0.5)]


def test_a_recorder_without_memory_goes_on_with_the_run(store: Path) -> None:
    run = _run(store / "run", START, _steps(0, [3.0, 2.0]))
    _record(run)
    (run / "mlflow.json").unlink()
    _append(run, _steps(2, [1.0]))
    _record(run)
    assert _history("train/loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_a_twin_made_by_an_answer_that_came_too_late_is_deleted(store: Path) -> None:
    run = _run(store / "run", START, _steps(0, [3.0]))
    _record(run)
    tracker = tracking.Tracker("classifier", "run", "another")
    key = json.loads((run / "run.json").read_text())["id"]
    tracker.describe({}, {tracking.KEY: key})
    assert len(_runs()) == 2
    _record(run)
    assert _history("train/loss") == [(0, 3.0)]


def test_a_store_made_anew_gets_the_whole_run_again(store: Path, empty_store: Path) -> None:
    import mlflow

    run = _run(store / "run", START, _steps(0, [3.0, 2.0]))
    _record(run)
    shutil.copy(empty_store, store / "other.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/other.db")
        _record(run)
        assert _history("train/loss") == [(0, 3.0), (1, 2.0)]
    mlflow.set_tracking_uri(tracking.uri())


def test_steps_that_are_taken_again_are_logged_once_and_other_values_beside_them(store: Path) -> None:
    run = _run(store / "run", START, _steps(0, [5.0, 4.0, 3.0, 9.0]), {"event": "guard", "step": 3})
    _append(run, {**START, "step": 1}, _steps(1, [4.0, 3.0, 2.0]))
    _record(run)
    assert _history("train/loss") == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 9.0)]
    assert _history("retaken/train/loss") == [(3, 2.0)]
    assert _history("events/guard") == [(3, 1.0)]
    (found,) = _runs()
    told = {name: value for name, value in found.data.tags.items() if name.startswith("eagerly.re")}
    assert told == {"eagerly.restarts": "1", "eagerly.retaken": "3", **{n: v for n, v in told.items() if "key" in n}}
    assert found.data.tags["eagerly.events"] == "guard=1"


@pytest.fixture
def refusing() -> Iterator[Callable[[int], str]]:
    """Starts servers that answer everything with one status."""
    servers = []

    def start(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = b"You are not authenticated."
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PATCH = do_GET  # noqa: N815 - the names are http.server's

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://me:secret@127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_a_sentence_without_the_password(
    store: Path, refusing: Callable[[int], str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing(status))
    run = _run(store / "run", START, _steps(0, [3.0]))
    with pytest.raises(ValueError, match=rf"refuses the credentials \(status {status}\); set MLFLOW_TRACKING") as told:
        _record(run)
    assert "secret" not in str(told.value)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
        _record(run)
        assert _history("train/loss") == [(0, 3.0)]


def test_what_is_amiss_is_said_while_training_lasts(
    store: Path, refusing: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing(401))
    run = _run(store / "run", {"event": "loading"})
    command = [sys.executable, "-m", "pipelines.recorder", str(run)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdin is not None and process.stdout is not None
        notice = json.loads(process.stdout.readline())
        assert "refuses the credentials (status 401)" in notice["notice"] and process.poll() is None
        _append(run, START, _steps(0, [3.0]))
        process.stdin.close()
        result = json.loads(process.stdout.readline())
    assert "refuses the credentials" in result["error"] and process.returncode == 1


def test_two_recorders_of_one_run_wait_for_each_other(store: Path) -> None:
    run = _run(store / "run", START, _steps(0, [3.0, 2.0]), tracker_patience=30)
    both = [threading.Thread(target=_record, args=(run,)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert _history("train/loss") == [(0, 3.0), (1, 2.0)]


def test_a_tracker_that_stays_away_is_given_up_after_the_patience(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run = _run(store / "run", START, _steps(0, [3.0]), tracker_patience=0.2)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        _record(run)
    assert time.monotonic() - began >= 0.2


def test_a_run_that_is_broken_off_waits_for_no_tracker(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run = _run(store / "run", START, _steps(0, [3.0]), tracker_patience=9999.0)
    recorder_process = recording.Recording([run], lambda sentence: None)
    assert recorder_process.abandon() == [run]
    assert "`eagerly record" in recording.later([run])


def test_a_tracker_that_never_answers_holds_up_nobody_who_breaks_a_run_off(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tracking.uri()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        run = _run(store / "run", START, _steps(0, [3.0, 2.0]))
        follower = recording.Recording([run], lambda sentence: None)
        connection, _ = silent.accept()  # it has asked
        began = time.monotonic()
        assert follower.abandon() == [run]
        assert time.monotonic() - began < 2 * recording.LEAVE_SECONDS
        connection.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", there)
    _record(run)  # waits for the other, which gives up by itself
    assert _history("train/loss") == [(0, 3.0), (1, 2.0)]
    assert _runs()[0].info.status == "KILLED"


def test_who_breaks_off_before_there_is_anything_is_told_of_nothing(store: Path) -> None:
    assert recording.Recording([_run(store / "run")], lambda sentence: None).abandon() == []
