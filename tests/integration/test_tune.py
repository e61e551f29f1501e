"""A search on a real Ray cluster: trials judged by validation alone, resumed without running one again, in MLflow."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from eagerly.commands import tune
from pipelines import checkpoint, recorder, registry, sealed, tasks, tracking, trials
from pipelines.journal import Journal, Reader
from pipelines.settings import Launch

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
ROOT = Path(__file__).resolve().parents[2]
TRIALS, EPOCHS = 5, 4
DOOMED = """
import os, signal, sys, time
from pathlib import Path
from pipelines import checkpoint, trials, tuning

folder = Path(sys.argv[1])
take = tuning.Proposer.on_trial_result

def on_trial_result(self, trial_id, result):
    take(self, trial_id, result)
    if trials.known(folder)[0].state in trials.DONE and result["epoch"] == 2:
        while not checkpoint.whole(trials.place(folder, 1) / "checkpoints"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

tuning.Proposer.on_trial_result = on_trial_result
tuning.search(trials.reopen(folder), print)
"""
"""A search that is killed when its second trial, which waits meanwhile, has told of two epochs."""


class Killed(BaseException):
    """Ends the driver in the midst of a search."""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Any:
    """A search whose driver died when two trials had ended, and that was then resumed."""
    from pipelines import tuning

    folder = tmp_path_factory.mktemp("search") / "tune"
    config = tasks.find("classifier").config.Config(arch="article", batch_size=256, epochs=2)
    words = ("lr=loguniform(1e-4, 0.05)", "batch_size=choice(128, 256)")
    search = trials.Search(TRIALS, EPOCHS, set=words, parallel=2)
    made = trials.create("classifier", config, Launch(local=True, run_dir=str(folder)), search)
    said: list[str] = []

    def die(sentence: str) -> None:
        said.append(sentence)
        if len(said) == 2:
            raise Killed

    with pytest.raises(Killed):
        tuning.search(made, die)
    before = {number: trial for number, trial in trials.known(folder).items() if trial.state in trials.DONE}
    journals = {number: (trials.place(folder, number) / "journal.jsonl").read_bytes() for number in before}
    said.clear()
    best = tuning.search(trials.reopen(folder), said.append)
    return {"folder": folder, "before": before, "journals": journals, "best": best, "said": said}


@pytest.mark.timeout(600)
def test_trials_that_had_ended_are_not_run_again(searched: Any) -> None:
    assert len(searched["before"]) == 2
    after = trials.known(searched["folder"])
    assert {number: after[number] for number in searched["before"]} == searched["before"]
    for number, content in searched["journals"].items():
        assert (trials.place(searched["folder"], number) / "journal.jsonl").read_bytes() == content


def test_every_trial_ends_and_some_are_stopped_early(searched: Any) -> None:
    tried = trials.known(searched["folder"])
    assert sorted(tried) == list(range(TRIALS)) and {trial.state for trial in tried.values()} <= {"finished", "stopped"}
    assert min(trial.epochs for trial in tried.values()) < EPOCHS == searched["best"].epochs
    assert len(searched["said"]) == TRIALS


def test_the_best_is_judged_by_validation_and_no_trial_tests_or_releases(searched: Any) -> None:
    folder, best = searched["folder"], searched["best"]
    for number, trial in trials.known(folder).items():
        place = trials.place(folder, number)
        events = trials.events(place)
        last = [event for event in events if event["event"] == "epoch"][-1]
        assert trial.value == last["metrics"]["accuracy"] <= best.value or trial.state == "stopped"
        assert not {"test", "testing"} & {event["event"] for event in events}
        assert not (place / "artifact").exists() and not (place / "statistics.safetensors").exists()


def test_no_example_is_taken_more_often_than_its_epochs_say(searched: Any) -> None:
    for number, trial in trials.known(searched["folder"]).items():
        epochs = [e["epoch"] for e in trials.events(trials.place(searched["folder"], number)) if e["event"] == "epoch"]
        assert sorted(set(epochs)) == list(range(trial.epochs))


def test_mlflow_has_one_parent_with_a_child_for_each_trial_and_the_plots(
    searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "tune"
    shutil.copytree(searched["folder"], folder)
    journal, best = Journal(folder), searched["best"]
    journal.append({"event": "best", "number": best.number, "values": best.values, "value": best.value})
    journal.close()
    closed = threading.Event()
    closed.set()
    recorder.of(folder).follow(closed)
    result = recorder.of(folder).follow(closed)  # adds nothing
    client = mlflow.MlflowClient(tracking.uri())
    experiment = client.get_experiment_by_name("classifier")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    assert len(found) == TRIALS + 1 and len(children) == TRIALS
    parent = client.get_run(result["run_id"])
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert json.loads(parent.data.tags["eagerly.best"]) == best.values
    pictures = {entry.path for entry in client.list_artifacts(parent.info.run_id, "plots")}
    assert {"plots/trials_accuracy.png", "plots/settings.png"} <= pictures
    lengths = sorted(len(client.get_metric_history(run.info.run_id, "valid/accuracy")) for run in children)
    assert lengths == sorted(trial.epochs for trial in trials.known(folder).values())


@pytest.mark.timeout(600)
def test_a_trial_that_ran_when_its_search_was_killed_goes_on_from_its_checkpoint(
    tmp_path: Path, ray_cluster: None
) -> None:
    import ray

    from pipelines import tuning

    config = tasks.find("classifier").config.Config(arch="article", batch_size=256, epochs=2)
    search = trials.Search(2, EPOCHS, scheduler="none", set=("lr=loguniform(1e-4, 0.05)",), parallel=1)
    folder = tmp_path / "tune"
    trials.create("classifier", config, Launch(local=True, run_dir=str(folder)), search)
    address: Any = ray.get_runtime_context().gcs_address
    doomed = subprocess.run(
        [sys.executable, "-c", DOOMED, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert doomed.returncode == -signal.SIGKILL, doomed.stderr[-2000:]
    ended, running = (trials.place(folder, number) for number in (0, 1))
    before = (ended / "journal.jsonl").read_bytes()
    kept = checkpoint.step_of(checkpoint.whole(running / "checkpoints")[-1].name)
    assert {number: trial.state for number, trial in trials.known(folder).items()} == {0: "finished", 1: "running"}

    tuning.search(trials.reopen(folder), print)
    assert (ended / "journal.jsonl").read_bytes() == before
    events = list(Reader(running).new_events())
    (resume,) = [event for event in events if event["event"] == "resume"]
    assert resume["step"] >= kept > 0 and resume["problems"] == []
    later = events[events.index(resume) :]
    assert next(event for event in later if event["event"] == "steps")["first"] == resume["step"]
    assert [event["epoch"] for event in later if event["event"] == "epoch"][-1] == EPOCHS - 1
    assert trials.known(folder)[1].state == "finished" and trials.known(folder)[1].epochs == EPOCHS


@pytest.mark.timeout(600)
def test_the_verb_trains_the_best_out_as_a_child_of_the_search_and_registers_it(
    searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    assert tune.main(["--resume", str(searched["folder"])]) == 0
    said, best = capsys.readouterr().out, searched["best"]
    assert f"best of {TRIALS} trials: number {best.number + 1}, " in said
    assert re.search(r"model version +classifier 1, champion", said), said
    client = mlflow.MlflowClient(tracking.uri())
    version = client.get_model_version_by_alias("classifier", "champion")
    assert version.run_id is not None
    run = client.get_run(version.run_id)
    assert json.loads(client.get_run(run.data.tags["mlflow.parentRunId"]).data.tags["eagerly.best"]) == best.values
    assert float(run.data.params["lr"]) == best.values["lr"]
    assert run.data.metrics["test/accuracy"] > 0.9
    artifact = searched["folder"] / trials.BEST / "artifact"
    assert version.tags[registry.DIGEST] == sealed.verify(artifact)
