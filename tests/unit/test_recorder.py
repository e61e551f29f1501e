"""A run ends up in MLflow whole: settings, metrics, pictures, artifact and where it came from."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from pipelines import loop, recorder, registry, runs, tasks, tracking
from pipelines.journal import Journal
from pipelines.place import Place
from pipelines.settings import Launch

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy


class Stopped(Exception):
    """Ends a run half-way."""


def _train(folder: Path, stop_at: int = 0, **flags: Any) -> runs.Run:
    """Trains the classifier for two epochs as `eagerly train classifier --local` does; goes on if the run is there."""
    task = tasks.find("classifier")
    config = task.config.Config(epochs=2, batch_size=256, arch="article", **flags)
    run = (
        runs.reopen(folder) if folder.exists() else runs.create("classifier", task, config, Launch(local=True), folder)
    )
    journal = Journal(folder)

    def emit(event: dict[str, Any]) -> None:
        journal.append(event)
        if stop_at and event["event"] == "steps" and event["first"] >= stop_at:
            raise Stopped

    try:
        loop.run(task, config, folder, Place(), emit, checkpoint_steps=2)
    finally:
        journal.close()
    return run


def _record(folder: Path) -> dict[str, Any]:
    closed = threading.Event()
    closed.set()
    return recorder.Recorder(folder).follow(closed)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Any:
    """A run that was cut short and recorded, then resumed and recorded again."""
    folder = tmp_path_factory.mktemp("recorded")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        with pytest.raises(Stopped):
            _train(folder / "run", stop_at=8)
        cut = _record(folder / "run")
        status = _client().get_run(json.loads((folder / "run" / "mlflow.json").read_text())["run_id"]).info.status
        _train(folder / "run")
        result = _record(folder / "run")
        yield {"cut": cut, "cut_status": status, "result": result, "folder": folder / "run"}


def _client() -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking.uri())


def test_a_run_that_was_cut_short_is_killed_and_unfinished(recorded: Any) -> None:
    assert recorded["cut"] == {"run_dir": str(recorded["folder"]), "unfinished": True}
    assert recorded["cut_status"] == "KILLED"


def test_a_restart_adds_no_second_run(recorded: Any) -> None:
    (experiment,) = (found for found in _client().search_experiments() if found.name == "classifier")
    (run,) = _client().search_runs([experiment.experiment_id])
    assert run.info.run_id == recorded["result"]["run_id"]
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"


def test_every_step_s_loss_is_logged_once(recorded: Any) -> None:
    history = _client().get_metric_history(recorded["result"]["run_id"], "train/loss")
    assert [metric.step for metric in history] == list(range(12))
    assert history[-1].value < history[0].value


def test_metrics_of_epochs_and_of_the_test_are_logged(recorded: Any) -> None:
    client, run_id = _client(), recorded["result"]["run_id"]
    assert [metric.step for metric in client.get_metric_history(run_id, "valid/accuracy")] == [6, 12]
    metrics = client.get_run(run_id).data.metrics
    assert {"test/accuracy", "test/loss", "test/macro_f1", "train/lr", "train/examples_per_second"} <= set(metrics)


def test_settings_and_data_are_parameters(recorded: Any) -> None:
    params = _client().get_run(recorded["result"]["run_id"]).data.params
    assert (params["epochs"], params["arch"], params["local"], params["workers"]) == ("2", "article", "True", "1")
    assert len(params["data_digest"]) == 64
    (used,) = _client().get_run(recorded["result"]["run_id"]).inputs.dataset_inputs
    assert used.dataset.name == "digits" and params["data_digest"].startswith(used.dataset.digest)
    assert int(params["parameters"]) > 1000


def test_commit_and_lock_are_tags(recorded: Any) -> None:
    tags = _client().get_run(recorded["result"]["run_id"]).data.tags
    assert tags["eagerly.git_commit"] == tracking.git_commit(Path(__file__).parent) == tags["mlflow.source.git.commit"]
    assert len(tags["eagerly.lock"]) == 64


def test_plots_are_images_and_the_artifact_lies_beside_them(recorded: Any) -> None:
    client, run_id = _client(), recorded["result"]["run_id"]
    plots = {entry.path for entry in client.list_artifacts(run_id, "plots")}
    assert plots == {"plots/loss.png", "plots/confusion_matrix.png", "plots/reliability.png"}
    logged = {Path(entry.path).name for entry in client.list_artifacts(run_id, "model")}
    assert logged == {path.name for path in (recorded["folder"] / "artifact").iterdir()}


def test_the_model_is_registered_with_digest_and_metrics(recorded: Any, tmp_path: Path) -> None:
    version = registry.champion("classifier")
    assert version.version == 1
    assert version.run_id == recorded["result"]["run_id"]
    assert recorded["result"]["version"] == {**vars(version)}
    assert recorded["result"]["reason"] == "champion, as there was none"
    registry.download(version, tmp_path / "model")
    model = tasks.find("classifier").model.Model.load(tmp_path / "model")
    assert [answer.labels[0][0] in "0123456789" for answer in model.predict(model.examples())] == [True, True]


def test_recording_a_finished_run_again_adds_nothing(recorded: Any) -> None:
    result = _record(recorded["folder"])
    assert result["version"]["version"] == 1
    assert len(registry.versions("classifier")) == 1
    assert len(_client().get_metric_history(result["run_id"], "train/loss")) == 12


def test_a_run_that_diverged_has_failed(recorded: Any, tmp_path: Path) -> None:
    start = {"event": "start", "data": "digits", "data_digest": "0" * 64, "parameters": 3}
    run = _journal(
        tmp_path / "diverged", {"event": "loading"}, start, {"event": "error", "sentence": "the loss is nan"}
    )
    assert _record(run)["unfinished"]
    run_id = json.loads((run / "mlflow.json").read_text())["run_id"]
    assert _client().get_run(run_id).info.status == "FAILED"


def test_a_run_whose_data_was_refused_is_not_in_mlflow(recorded: Any, tmp_path: Path) -> None:
    run = _journal(tmp_path / "refused", {"event": "loading"}, {"event": "error", "sentence": "no such file"})
    assert _record(run) == {"run_dir": str(run), "unfinished": True}
    assert not (run / "mlflow.json").exists()


def _journal(folder: Path, *events: dict[str, Any]) -> Path:
    task = tasks.find("classifier")
    run = runs.create("classifier", task, task.config.Config(), Launch(local=True), folder)
    journal = Journal(run.folder)
    for event in events:
        journal.append(event)
    journal.close()
    return run.folder
