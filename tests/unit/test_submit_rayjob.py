"""What a RayJob's manifest holds, and what it does not."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from eagerly import supervisor
from eagerly.cli import main
from eagerly.commands import kubernetes, train
from pipelines import runs, tasks
from pipelines.settings import Launch

URI = "https://ann:hunter2@mlflow.example/sub"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)


def written(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str]:
    """Gives a manifest, and all that was printed."""
    assert main(["submit", "sentiment", "--kubernetes", "--name", "nightly", *words]) == 0
    output = capsys.readouterr().out
    return yaml.safe_load(output), output


def plan(manifest: dict[str, Any]) -> dict[str, Any]:
    return json.loads(shlex.split(manifest["spec"]["entrypoint"])[-1])


def test_a_rayjob_has_the_runs_folder_that_was_given_and_no_flag_that_its_restarts_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = plan(written(capsys, "--run-dir", str(tmp_path / "mine"), "--gpu")[0])
    assert made["run_dir"] == str(tmp_path / "mine")
    assert set(made["flags"]) == {"--gpu", "--wait"}
    task = tasks.find("sentiment")
    runs.create("sentiment", task, task.config.Config(), Launch(gpu=True, wait=True), tmp_path / "mine")
    job = supervisor.Supervisor(made)
    words = job.command()
    job.log.close()
    launch, (run,) = train.plan(words[words.index("train") + 1 :])
    assert run.folder == tmp_path / "mine" and launch.gpu and launch.wait


def test_a_rayjob_ends_by_a_deadline_only_where_one_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert "activeDeadlineSeconds" not in written(capsys)[0]["spec"]
    assert written(capsys, "--deadline-s", "7200")[0]["spec"]["activeDeadlineSeconds"] == 7200


def test_a_rayjob_holds_no_password_of_mlflow_and_says_where_its_pods_get_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest, output = written(capsys, "--queue", "team")
    (head,) = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one for one in head["env"]}
    assert variables["MLFLOW_TRACKING_URI"]["value"] == "https://mlflow.example/sub"
    assert {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"} <= variables.keys()
    assert "hunter2" not in output
    told = "# MLflow     user and password are not sent; the cluster needs MLFLOW_TRACKING_USERNAME and"
    assert output.count(told) == 1
    assert told not in written(capsys)[1]  # on the chart's own cluster, whose Pods have an address of their own


def test_a_cluster_of_a_jobs_own_keeps_runs_on_the_charts_claim_or_on_the_one_that_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, claim in ((), "eagerly-runs"), (("--claim", "mine"), "mine"):
        cluster = written(capsys, "--queue", "team", *words)[0]["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            volumes = {one["name"]: one for one in group["template"]["spec"]["volumes"]}
            assert volumes["state"]["persistentVolumeClaim"] == {"claimName": claim}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--claim mine", "--claim goes with --queue; the chart's own cluster has the claim of training.storage"),
        ("--again", "--again asks a jobs server, so it goes without --kubernetes; `kubectl delete rayjob` the old one"),
        ("--run-dir mine", f"--run-dir is 'mine'; name a folder on the Pods' volume, {kubernetes.RUNS}, by its whole"),
        ("--storage runs", f"--storage is 'runs'; name a folder on the Pods' volume, {kubernetes.RUNS}, by its whole"),
        ("--deadline-s -1", "--deadline-s is -1; it must be 0 or more"),
    ],
)
def test_what_no_rayjob_can_be_made_of_is_one_sentence(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "sentiment", "--kubernetes", "--name", "nightly", *words.split()]) == 2
    assert sentence in capsys.readouterr().err
    assert main(["submit", "sentiment", "--deadline-s", "5"]) == 2
    assert "--deadline-s goes with --kubernetes" in capsys.readouterr().err
