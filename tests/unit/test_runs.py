"""A run folder says what the run is about, and is continued only as that."""

import json
from pathlib import Path
from typing import Any

import pytest
from training import PARITY

from pipelines import runs, tasks
from pipelines.journal import Journal
from pipelines.settings import Launch


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _create(word: str = "classifier", folder: Path | None = None, **flags: Any) -> runs.Run:
    task = tasks.find(word)
    return runs.create(word, task, task.config.Config(**flags), Launch(local=True), folder)


@pytest.mark.parametrize("word", [*tasks.TASKS, PARITY])
def test_a_run_is_reopened_as_it_was_made(word: str) -> None:
    run = _create(word, seed=7)
    assert runs.reopen(run.folder) == run
    assert run.folder.parent == Path.cwd() / "runs"


def test_runs_of_the_same_second_get_folders_of_their_own() -> None:
    assert len({_create().folder for _ in range(3)}) == 3


def test_a_folder_that_holds_a_run_is_not_used_again(tmp_path: Path) -> None:
    _create(folder=tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds a run already; `--resume .*/run` continues it"):
        _create(folder=tmp_path / "run")


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="work' is not an empty folder; name a new one"):
        _create(folder=tmp_path / "work")
    assert (tmp_path / "work" / "thesis.txt").exists()


def test_a_refused_run_leaves_no_folder_and_one_that_began_stays() -> None:
    refused, began = _create(), _create()
    journal = Journal(began.folder)
    journal.append({"event": "start"})
    journal.close()
    runs.discard([refused, began])
    assert not refused.folder.exists()
    assert began.folder.exists()


def test_other_settings_are_refused_by_the_flag_that_differs() -> None:
    run = _create(batch_size=32)
    with pytest.raises(
        ValueError, match=r"has --batch-size 32, not 64; leave the flag out to resume, or add --resume-anyway"
    ):
        runs.check_same(run, run.task, run.task.config.Config(batch_size=64))
    runs.check_same(run, run.task, run.task.config.Config(batch_size=32))


def test_another_task_is_refused() -> None:
    other = tasks.find("sentiment")
    with pytest.raises(ValueError, match="is a run of classifier, not of sentiment"):
        runs.check_same(_create(), other, other.config.Config())


def test_a_folder_without_a_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'.*nothing' holds no run: there is no run\.json in it"):
        runs.reopen(tmp_path / "nothing")


def test_a_damaged_description_is_a_sentence() -> None:
    run = _create()
    (run.folder / runs.ABOUT).write_text("{")
    with pytest.raises(ValueError, match=r"run\.json' is damaged"):
        runs.reopen(run.folder)


def test_a_run_of_another_version_of_its_task_names_the_settings_that_differ() -> None:
    run = _create()
    about = json.loads((run.folder / runs.ABOUT).read_text())
    about["config"]["warmth"] = 3
    (run.folder / runs.ABOUT).write_text(json.dumps(about))
    with pytest.raises(
        ValueError, match="made by another version of classifier; it has settings that this one lacks: warmth"
    ):
        runs.reopen(run.folder)


def test_a_run_made_before_a_setting_was_added_has_its_default() -> None:
    run = _create(batch_size=32)
    about = json.loads((run.folder / runs.ABOUT).read_text())
    del about["config"]["clip"], about["launch"]["keep"]
    (run.folder / runs.ABOUT).write_text(json.dumps(about))
    assert runs.reopen(run.folder) == run
    assert runs.launched(run.folder).keep == 2


def test_other_settings_are_taken_when_told_and_remembered() -> None:
    run = _create(batch_size=32)
    config = run.task.config.Config(batch_size=64)
    runs.check_same(run, run.task, config, anyway=True)
    assert runs.reopen(runs.change(run, config, Launch(local=True)).folder).config.batch_size == 64
