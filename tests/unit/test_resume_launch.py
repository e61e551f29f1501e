"""What is said of a run when it goes on holds from then on: where it trains, and what becomes of its model."""

import shutil
import threading
from pathlib import Path

import pytest
from training import PARITY

from eagerly import supervisor
from eagerly.commands import train
from pipelines import loop, promotion, recorder, registry, runs, tasks
from pipelines.journal import Journal
from pipelines.place import Place
from pipelines.settings import Launch


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EAGERLY_JOB", raising=False)


def made(launch: Launch, name: str = "run") -> Path:
    """Makes the folder of a run."""
    task = tasks.find(PARITY)
    return runs.create(PARITY, task, task.config.Config(epochs=2), launch, Path(name)).folder


def test_what_becomes_of_a_model_is_what_was_said_last() -> None:
    folder = made(Launch())
    launch, _ = train.plan(["--resume", str(folder), "--promote", "never", "--margin", "0.1", "--no-tensorboard"])
    assert (launch.promote, launch.resume) == ("never", str(folder))
    assert runs.launched(folder) == Launch(promote="never", margin=0.1, tensorboard=False)
    again, (run,) = train.plan(["--resume", str(folder), "--margin", "0.0"])
    assert (again.promote, again.margin, run.config.epochs) == ("never", 0.0, 2)
    assert runs.launched(folder) == Launch(promote="never", tensorboard=False)


def test_a_run_that_goes_on_as_it_was_keeps_its_description() -> None:
    folder = made(Launch(storage="shared", run_dir="run"))
    before = (folder / runs.ABOUT).stat()
    train.plan(["--resume", str(folder)])
    train.plan(["--resume", str(folder), "--storage", "shared"])
    after = (folder / runs.ABOUT).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_first_of_torchruns_processes_alone_writes_the_description(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(Launch())
    words = ["--resume", str(folder), "--promote", "never", "--epochs", "3", "--resume-anyway"]
    monkeypatch.setenv("RANK", "1")
    launch, (run,) = train.plan(words)
    assert launch.promote == "never" and vars(run.config)["epochs"] == 3
    assert runs.launched(folder) == Launch() and vars(runs.reopen(folder).config)["epochs"] == 2
    monkeypatch.setenv("RANK", "0")
    train.plan(words)
    assert runs.launched(folder) == Launch(promote="never") and vars(runs.reopen(folder).config)["epochs"] == 3


@pytest.mark.parametrize(
    "before", [Launch(workers=4), Launch(gpu=True, keep=5), Launch(max_failures=9, checkpoint_steps=7, threads=2)]
)
def test_a_job_goes_on_with_its_own_flags_and_the_defaults_of_those_that_it_was_not_given(
    before: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(before)
    monkeypatch.setenv("EAGERLY_JOB", "j")
    order = {"name": "j", "task": PARITY, "flags": ["--epochs=2"], "run_dir": str(folder), "restarts": 3, "again": True}
    job = supervisor.Supervisor(order)
    words = job.command()
    job.log.close()
    launch, (run,) = train.plan(words[words.index("train") + 1 :])
    assert launch == Launch(resume=str(folder)) and run.folder == folder
    assert runs.launched(folder) == Launch()


def test_a_better_run_that_is_told_to_promote_nothing_as_it_goes_on_does_not_become_champion(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    task, closed = tasks.find("classifier"), threading.Event()
    closed.set()
    for name, flags, words in (("first", {"epochs": 1, "lr": 2e-3}, []), ("better", {"epochs": 8}, ["never"])):
        config = task.config.Config(arch="article", batch_size=256, augment=False, **flags)
        folder = runs.create("classifier", task, config, Launch(local=True, threads=1), tmp_path / name).folder
        train.plan(["--resume", str(folder), *(["--promote", *words] if words else [])])
        journal = Journal(folder)
        loop.run(task, config, folder, Place(threads=1), journal.append, task.data.load(config))
        journal.close()
        said = recorder.Recorder(folder).follow(closed)
    assert not said["version"]["champion"] and registry.champion("classifier").version == 1
    version, reason = promotion.judge_again("classifier", 2)
    assert version.champion, reason  # the gate would have let it through
