"""A run that goes on with other settings says so in MLflow, and its new model leaves the registered one as it was."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import training

from pipelines import artifact, recorder, registry, runs, tasks, tracking
from pipelines.journal import Journal
from pipelines.saving import Keeping
from pipelines.settings import Launch

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
FLAGS: dict[str, Any] = training.PLAIN | {"batch_size": 256}


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    task = tasks.find("classifier")
    config = task.config.Config(epochs=2, **FLAGS)
    launch = Launch(local=True, tensorboard=False)
    return runs.create("classifier", task, config, launch, tmp_path / "run").folder


def train_and_record(folder: Path, epochs: int) -> dict[str, Any]:
    journal, closed = Journal(folder), threading.Event()
    training.train(folder, keeping=Keeping(anyway=True), hear=journal.append, epochs=epochs, **FLAGS)
    journal.close()
    closed.set()
    return recorder.Recorder(folder).follow(closed)


def change(folder: Path, epochs: int) -> None:
    run = runs.reopen(folder)
    runs.change(run, replace(run.config, epochs=epochs), runs.launched(folder))


def tags(result: dict[str, Any]) -> dict[str, str]:
    import mlflow

    return dict(mlflow.MlflowClient(tracking.uri()).get_run(result["run_id"]).data.tags)


def test_other_settings_are_a_tag_until_they_are_the_first_ones_again(folder: Path) -> None:
    first = train_and_record(folder, 2)
    assert tracking.CHANGED not in tags(first)
    change(folder, 3)
    second = train_and_record(folder, 3)
    assert second["run_id"] == first["run_id"]
    assert tags(second)[tracking.CHANGED] == "epochs 2 -> 3"
    change(folder, 2)
    assert tags(train_and_record(folder, 2)).get(tracking.CHANGED, "") == ""


def test_a_recorder_that_was_there_before_the_run_went_on_tells_what_it_began_with(folder: Path) -> None:
    first = train_and_record(folder, 2)
    change(folder, 3)
    closed = threading.Event()
    follows = recorder.Recorder(folder)
    starts = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    start = next(event for event in starts if event["event"] == "start")
    journal = Journal(folder)
    journal.append({"event": "loading"})
    thread = threading.Thread(target=follows.follow, args=(closed,))
    thread.start()
    closed.wait(1)
    journal.append(start | {"data_digest": "0" * 64})
    closed.set()
    thread.join()
    journal.close()
    said = tags(first)[tracking.CHANGED]
    assert said.startswith("epochs 2 -> 3, data_digest ") and said.endswith(f" -> {'0' * 64}")


def test_the_model_of_a_run_that_went_on_is_a_version_of_its_own_beside_the_first(folder: Path, tmp_path: Path) -> None:
    first = train_and_record(folder, 2)["version"]
    change(folder, 4)
    second = train_and_record(folder, 4)["version"]
    again = train_and_record(folder, 4)["version"]
    assert (first["version"], second["version"], again["version"]) == (1, 2, 2)
    for version in registry.versions("classifier"):
        registry.download(version, tmp_path / str(version.version))
        assert artifact.verify(tmp_path / str(version.version)) == version.digest
    assert first["digest"] != second["digest"]
