"""A search in MLflow: its best is a child of it, in whatever order the two are recorded."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from training import REGRESSION

from pipelines import local, recorder, runs, tasks, tracking, trials
from pipelines.journal import Journal, note
from pipelines.settings import Launch

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
WHERE = Launch(local=True, threads=1, tensorboard=False, promote="never")


@pytest.fixture
def searched(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a search whose best was trained out, with nothing recorded yet."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    task, folder = tasks.find(REGRESSION), tmp_path / "tune"
    config = task.config.Config(epochs=2)
    made = trials.create(REGRESSION, config, Launch(run_dir=str(folder)), trials.Search(trials=1, max_epochs=2))
    journal, values = Journal(folder), {"lr": 0.1}
    journal.append({"event": "trial", "number": 0, "values": values})
    run = trials.start(made, 0, values)
    for event in (
        {"event": "start", "step": 0, "steps": 2, "data": "points", "data_digest": "d", "parameters": 2},
        {"event": "epoch", "epoch": 0, "step": 1, "metrics": {"loss": 0.5, "negative_mse": -0.5}},
        {"event": "ended"},
    ):
        note(run.folder, event)
    journal.append({"event": "done", "number": 0, "state": "finished", "value": -0.5, "epochs": 2})
    journal.append({"event": "best", "number": 0, "values": values, "value": -0.5})
    journal.close()
    local.train([runs.create(REGRESSION, task, config, WHERE, folder / trials.BEST)], WHERE)
    return folder


def record(folder: Path) -> dict[str, Any]:
    closed = threading.Event()
    closed.set()
    return recorder.of(folder).follow(closed)


def test_the_best_that_was_recorded_before_its_search_becomes_its_child(searched: Path, tmp_path: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking.uri())
    best = record(searched / trials.BEST)["run_id"]
    assert tracking.PARENT not in client.get_run(best).data.tags
    search = record(searched)["run_id"]
    run = client.get_run(best)
    assert run.data.tags[tracking.PARENT] == search and run.info.status == "FINISHED"
    assert record(searched)["run_id"] == search

    client.delete_run(best)
    assert record(searched)["run_id"] == search, "a best that is gone from MLflow keeps nothing else from it"
