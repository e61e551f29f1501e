"""Ray Train trains as torchrun does: one worker group, several tasks, each recorded and registered."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trained import ROOT, Trained, losses

from eagerly.cli import main
from pipelines import launch, recording, registry, runs, tasks
from pipelines.settings import Launch

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # mlflow's own use of sqlalchemy
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),  # ray's own settings
]
REGRESSION = str(ROOT / "examples" / "linear_regression")
PLAIN: dict[str, Any] = {
    "arch": "article",
    "optimizer": "sgd",
    "schedule": "constant",
    "lr": 0.05,
    "batch_size": 64,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "augment": False,
    "epochs": 2,
}


@dataclass(frozen=True)
class Group:
    """What one worker group of two did."""

    folder: Path
    planned: list[runs.Run]
    results: list[dict[str, Any]]
    refusal: str


@pytest.fixture(scope="module")
def group(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Trains the classifier, a task of one's own, and one that diverges, in one worker group."""
    folder = tmp_path_factory.mktemp("ray")
    how = Launch(workers=2, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        words = [("classifier", PLAIN), (REGRESSION, {"epochs": 200}), (REGRESSION, {"lr": 50.0})]
        found = [(word, tasks.find(word), flags) for word, flags in words]
        planned = [runs.create(word, task, task.config.Config(**flags), how) for word, task, flags in found]
        recorder = recording.Recording([run.folder for run in planned])
        try:
            with pytest.raises(ValueError, match="the loss is") as raised:
                launch.train(planned, how)
        finally:
            results = recorder.close()
        yield Group(folder, planned, results, str(raised.value))


def test_ray_train_has_the_very_losses_of_torchrun(group: Group, trained_by_torchrun: Trained) -> None:
    assert len(losses(group.planned[0].folder)) == 46
    assert losses(group.planned[0].folder) == losses(trained_by_torchrun.run_dir)


def test_each_task_of_the_group_is_recorded_and_registered(group: Group) -> None:
    assert [result["version"]["name"] for result in group.results[:2]] == ["classifier", "linear_regression"]
    for result in group.results[:2]:
        assert registry.champion(result["version"]["name"]).run_id == result["run_id"]


def test_a_run_that_diverges_in_a_worker_is_one_sentence(group: Group) -> None:
    assert group.refusal.startswith("the loss is ") and "lower --lr (now 50.0)" in group.refusal
    assert group.results[2] == {"run_dir": str(group.planned[2].folder), "unfinished": True}


def test_more_workers_than_the_cluster_has_are_refused(ray_cluster: None) -> None:
    with pytest.raises(ValueError, match=r"--workers is 99, and the cluster has \d+ CPUs; ask for fewer workers"):
        launch.start_ray(Launch(workers=99))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("train classifier --data nowhere --workers 2", "--data 'nowhere' is not a folder"),
        ("train sentiment --data nowhere.csv --workers 2", "nowhere.csv"),
    ],
)
def test_data_that_is_not_there_is_one_sentence_before_ray_starts(
    line: str, sentence: str, tracking_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("eagerly: ") and sentence in last
    assert not list((tracking_store / "runs").iterdir())
