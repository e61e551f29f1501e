"""A job that goes on is the one that was submitted; a name that is taken and a dry run send nothing."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eagerly import supervisor
from eagerly.cli import main
from eagerly.commands import jobs as verbs
from eagerly.commands import train
from pipelines import jobs, runs, tasks
from pipelines.settings import Launch

ADDRESS = "http://head:8265"


@dataclass
class Server:
    """Ray's jobs server, as far as it keeps what it is given."""

    kept: list[SimpleNamespace] = field(default_factory=list)

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.kept

    def submit_job(self, **order: Any) -> str:
        status = SimpleNamespace(value="RUNNING")
        later = {"start_time": 1000 * len(self.kept), "end_time": None, "message": "", "driver_node_id": ""}
        self.kept.append(SimpleNamespace(**order, **later, status=status))
        return str(order["submission_id"])

    def end(self, state: str) -> None:
        """Ends the newest job."""
        self.kept[-1].status.value = state

    def plan(self) -> dict[str, Any]:
        """Reads what the newest job's supervisor was given."""
        return json.loads(shlex.split(self.kept[-1].entrypoint)[-1])

    def variables(self) -> dict[str, str]:
        return self.kept[-1].runtime_env["env_vars"]


class Clustered(jobs.Cluster):
    """A cluster of one machine, this one or another, behind a jobs server of the test's."""

    def __init__(self, server: Server, here: bool) -> None:
        self.address, self._client, self._here = ADDRESS, server, here  # type: ignore[assignment]

    def nodes(self) -> list[dict[str, float]]:
        return [{"CPU": 8.0, "GPU": 1.0}]

    def is_here(self) -> bool:
        return self._here

    def check_versions(self) -> None:
        pass

    def describe(self) -> str:
        return "a cluster"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a file to learn from."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "my.csv").write_text("text,label\ngood,1\n")
    monkeypatch.chdir(tmp_path / "first")
    return tmp_path


@pytest.fixture(params=["here", "elsewhere"])
def server(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The jobs server of a cluster on this machine, or on another."""
    made, here = Server(), request.param == "here"
    monkeypatch.setattr(jobs, "connect", lambda address: Clustered(made, here))
    if not here:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    return made


elsewhere = pytest.mark.parametrize("server", ["elsewhere"], indirect=True)
here = pytest.mark.parametrize("server", ["here"], indirect=True)


def submit(*words: str) -> int:
    return main(["submit", "sentiment", "--address", ADDRESS, "--name", "j", *words])


@pytest.mark.parametrize("storage", ["file://{}/bucket", "{}/shared"])
def test_a_job_goes_on_from_any_folder_with_the_run_the_data_and_the_settings_it_began_with(
    storage: str, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "shared").mkdir()
    words = ["--storage", storage.format(folder), "--epochs", "7", "--data", "my.csv", "--gpu", "--priority", "4"]
    assert submit(*words) == 0
    first, variables = server.plan(), server.variables()
    server.end("STOPPED")
    (folder / "second").mkdir()
    monkeypatch.chdir(folder / "second")
    assert submit("--again") == 0
    assert server.plan() == {**first, "again": True}
    assert "again" not in first and "--gpu" in first["flags"] and "--epochs=7" in first["flags"]
    same = ("MLFLOW_TRACKING_URI", "EAGERLY_JOB_FOLDER", "EAGERLY_JOB_PRIORITY")
    assert [server.variables().get(name) for name in same] == [variables.get(name) for name in same]
    assert server.kept[-1].submission_id == "j.2"
    server.end("STOPPED")
    assert submit(*words[:4], "--again", "--workers", "1") == 0  # the same flags once more
    assert server.plan() == {**first, "again": True}


@here
def test_the_folder_of_a_run_is_the_one_that_a_job_was_given(server: Server, folder: Path) -> None:
    assert submit("--run-dir", "elsewhere/mine") == 0
    server.end("FAILED")
    assert submit("--again") == 0
    assert server.plan()["run_dir"] == str(folder / "first" / "elsewhere" / "mine")
    server.end("FAILED")
    assert submit("--again", "--run-dir", str(folder / "moved")) == 0
    assert server.plan()["run_dir"] == str(folder / "moved")


@elsewhere
def test_a_job_goes_on_with_what_is_given_besides(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--epochs", "7", "--workers", "2") == 0
    server.end("STOPPED")
    assert submit("--again", "--workers", "3") == 0
    assert {"--epochs=7", "--workers=3"} == set(server.plan()["flags"])
    server.end("STOPPED")
    assert submit("--again", "--workers", "1") == 0
    assert server.plan()["flags"] == ["--epochs=7"]
    server.end("STOPPED")
    assert main(["submit", "classifier", "--address", ADDRESS, "--name", "j", "--again"]) == 2
    assert "the job 'j' is of sentiment, not of classifier; give another --name" in capsys.readouterr().err


@elsewhere
def test_a_job_of_no_plan_of_ours_is_none_to_go_on_with(server: Server) -> None:
    assert submit("--epochs", "7") == 0
    server.kept[-1].entrypoint = "eagerly train sentiment"
    server.end("FAILED")
    assert submit("--again", "--epochs", "3") == 0
    assert server.plan()["flags"] == ["--epochs=3"] and server.plan()["again"]


@elsewhere
def test_a_dry_run_uploads_nothing_and_says_what_would_be(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", "my.csv", "--storage", f"file://{folder}/bucket")
    assert submit(*words, "--dry-run") == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "would be uploaded" in line]
    assert server.kept == [] and not (folder / "bucket").exists()
    assert submit(*words) == 0
    where = told.rpartition(": ")[2]
    assert f"--data={where}" in server.plan()["flags"]
    assert Path(where.removeprefix("file://")).read_text() == (folder / "first" / "my.csv").read_text()


@elsewhere
@pytest.mark.parametrize("state", ["RUNNING", "FAILED", "SUCCEEDED"])
def test_a_name_that_is_taken_is_refused_before_anything_is_uploaded(
    state: str, server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit() == 0
    server.end(state)
    assert submit("--data", "my.csv", "--storage", f"file://{folder}/bucket") == 2
    assert "the job name 'j' is taken by a job that is" in capsys.readouterr().err
    assert len(server.kept) == 1 and not (folder / "bucket").exists()


def test_user_and_password_of_mlflow_stay_here(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:hunter2@mlflow.example/sub")
    assert submit("--dry-run") == 0
    assert submit() == 0
    output = capsys.readouterr().out
    assert server.variables()["MLFLOW_TRACKING_URI"] == "https://mlflow.example/sub"
    assert "the cluster needs MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in output
    assert "hunter2" not in output + repr(server.kept) and "ann" not in repr(server.kept)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:hunter2@db/mlflow")
    assert main(["submit", "sentiment", "--address", ADDRESS, "--name", "k"]) == 2
    refused = capsys.readouterr().err
    assert "'postgresql://db/mlflow' with a user or password" in refused and "hunter2" not in refused


def plan(run_dir: Path, *flags: str) -> dict[str, Any]:
    return {"name": "j", "task": "sentiment", "flags": [*flags], "run_dir": str(run_dir), "restarts": 3, "again": True}


def test_a_job_that_finds_no_run_to_go_on_with_fails_in_a_sentence_and_begins_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor.Supervisor, "_keep", lambda self: None)
    monkeypatch.setattr(supervisor, "_end_children", lambda: None)
    for flags in ((), (f"--storage=file://{folder}/bucket",)):
        job = supervisor.Supervisor(plan(folder / "run", *flags))
        assert job.run() == 2
        output = capfd.readouterr().out
        assert f"eagerly: --again goes on with a run, and there is none in {str(folder / 'run')!r}; say with" in output
        assert "begins anew" not in output and job.said["phase"] == "failed" and not job.said["has_run"]
        assert not (folder / "run").exists()


def test_the_command_that_goes_on_with_a_run_is_read_also_where_switches_are_set(folder: Path) -> None:
    task = tasks.find("sentiment")
    config = task.config.Config(epochs=7, guards=False)
    runs.create("sentiment", task, config, Launch(gpu=True, wait=True), folder / "run")
    job = supervisor.Supervisor(plan(folder / "run", "--epochs=7", "--no-guards", "--gpu", "--wait", "--workers=2"))
    words = job.command()
    job.log.close()
    launch, (run,) = train.plan(words[words.index("train") + 1 :])
    assert launch.gpu and launch.wait and launch.workers == 2
    assert run.config == config and run.folder == folder / "run"


def test_a_job_that_is_told_to_stop_before_its_driver_starts_again_starts_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    drives: list[int] = []
    monkeypatch.setattr(supervisor.Supervisor, "_drive", lambda self: drives.append(-9) or -9)
    monkeypatch.setattr(supervisor.Supervisor, "_keep", lambda self: None)
    monkeypatch.setattr(supervisor, "_end_children", lambda: None)
    job = supervisor.Supervisor(plan(folder / "run"))
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: job._stop(15, None))
    assert job.run() == 128 + 9 and job.said["phase"] == "stopped" and len(drives) == 1


def test_a_job_that_is_told_to_stop_while_it_looks_for_its_run_starts_no_driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = supervisor.Supervisor(plan(folder / "run"))
    monkeypatch.setattr(job, "command", lambda: job._stop(15, None) or ["touch", str(folder / "started")])
    assert job._drive() == -15 and not (folder / "started").exists()
    job.log.close()


@pytest.mark.parametrize(("said", "offers"), [({}, True), ({"has_run": True}, True), ({"has_run": False}, False)])
def test_the_way_on_is_offered_for_a_job_that_has_a_run(said: dict[str, Any], offers: bool) -> None:
    job = jobs.Job("j", "sentiment", "j", "FAILED", 0.0, 1.0, "", said=said)
    assert ("eagerly submit sentiment --name j --again" in verbs._onward(job)) == offers
