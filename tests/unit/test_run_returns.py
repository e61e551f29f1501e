"""A run that goes on from its storage elsewhere, and then returns to where it was before, keeps its whole history."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from training import PARITY

from pipelines import checkpoint, recovery, runs, storage, tasks
from pipelines.mirror import Mirror
from pipelines.settings import Launch


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def first(tmp_path: Path, there: Path) -> Path:
    """A run on the first machine, in its storage up to step 5."""
    task = tasks.find(PARITY)
    folder = runs.create(PARITY, task, task.config.Config(epochs=2), Launch(), tmp_path / "first" / "run").folder
    _go_on(folder, 5)
    _copy(folder, there)
    return folder


@pytest.fixture
def second(tmp_path: Path, there: Path, first: Path) -> Path:
    """The run on a second machine, where it went on from the storage to step 10, and is in it."""
    folder = storage.fetch_run(str(there / "run"), tmp_path / "second")
    _go_on(folder, 10)
    _copy(folder, there)
    return folder


def _go_on(folder: Path, step: int) -> None:
    with (folder / "journal.jsonl").open("a") as file:
        file.write(f'{{"event": "steps", "folder": "{folder.parent.name}", "step": {step}}}\n')
    checkpoint.write(folder / "checkpoints", step, {"step": step})


def _copy(folder: Path, there: Path) -> list[str]:
    mirror = Mirror(str(there), folder)
    mirror.fetch_newer()
    mirror.close(10, whole=False)
    return [event["problem"] for event in mirror.problems()]


def _told(path: Path) -> list[tuple[str, int]]:
    lines = map(json.loads, path.read_text().splitlines())
    return [(line["folder"], line["step"]) for line in lines]


def _kept(folder: Path) -> list[Path]:
    return list(folder.glob("journal-*.jsonl"))


def test_the_journal_of_a_run_that_returns_is_the_storage_s_and_goes_on(
    there: Path, first: Path, second: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (second / "statistics.safetensors").write_text("of the second machine")
    _copy(second, there)
    assert storage.fetch_run(str(there / "run"), first.parent) == first
    assert (first / "statistics.safetensors").read_text() == "of the second machine"
    assert _copy(first, there) == []
    _go_on(first, 15)
    assert _copy(first, there) == []
    assert _told(there / "run" / "journal.jsonl") == [("first", 5), ("second", 10), ("first", 15)]
    assert checkpoint.latest(there / "run" / "checkpoints") == ({"step": 15}, [])
    assert _kept(first) == []
    assert capfd.readouterr().err == ""


def test_what_never_reached_the_storage_is_kept_under_another_name_and_said(
    there: Path, first: Path, second: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _go_on(second, 12)
    _copy(second, there)
    _go_on(first, 6)
    storage.fetch_run(str(there / "run"), first.parent)
    (kept,) = _kept(first)
    assert f"; the journal here is the shorter one, and kept as {kept.name}" in capfd.readouterr().err
    assert _told(kept) == [("first", 5), ("first", 6)]
    assert _copy(first, there) == []
    assert _told(there / "run" / "journal.jsonl") == [("first", 5), ("second", 10), ("second", 12)]
    assert _told(there / "run" / kept.name) == _told(kept)


def test_a_shorter_journal_there_is_kept_before_the_longer_one_takes_its_place(
    there: Path, first: Path, second: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for step in (6, 7, 11):
        _go_on(first, step)
    storage.fetch_run(str(there / "run"), first.parent)
    (kept,) = _kept(first)
    assert f"; the journal there is the shorter one, and kept here as {kept.name}" in capfd.readouterr().err
    _copy(first, there)
    assert _told(there / "run" / "journal.jsonl") == [("first", 5), ("first", 6), ("first", 7), ("first", 11)]
    assert _told(there / "run" / kept.name) == [("first", 5), ("second", 10)]


def test_a_run_that_goes_on_from_its_folder_keeps_the_journal_there_and_says_so(
    there: Path, first: Path, second: Path
) -> None:
    _go_on(first, 6)
    (said,) = _copy(first, there)
    (kept,) = _kept(first)
    assert f"'{there}/run' tells of more than the one here, and is kept as {kept.name} beside it" in said
    assert _told(there / "run" / kept.name) == [("first", 5), ("second", 10)]
    _go_on(first, 11)
    assert _copy(first, there) == []
    assert _told(there / "run" / "journal.jsonl") == [("first", 5), ("first", 6), ("first", 11)]


def test_settings_that_were_changed_elsewhere_return_and_a_user_s_task_stays_where_it_is_here(
    tmp_path: Path, there: Path, first: Path, second: Path
) -> None:
    run = runs.reopen(second)
    runs.change(run, replace(run.config, epochs=7), Launch())
    (tmp_path / "moved").symlink_to(PARITY)
    runs.relocate(second, tmp_path / "moved")
    about = second / "run.json"
    about.write_text(about.read_text().replace(PARITY, "/only/there"))
    _copy(second, there)
    storage.fetch_run(str(there / "run"), first.parent)
    assert (runs.reopen(first).word, runs.reopen(first).config.epochs) == (PARITY, 7)


def test_a_job_that_returns_catches_up_and_says_what_it_kept(there: Path, first: Path, second: Path) -> None:
    _go_on(second, 12)
    _copy(second, there)
    _go_on(first, 6)
    said: list[str] = []
    recovery.bring(there.as_uri(), first, said.append, lambda: False)
    assert len(said) == 1 and f"kept as {_kept(first)[0].name}" in said[0]
    assert _told(first / "journal.jsonl") == _told(second / "journal.jsonl")


def test_a_job_goes_on_with_the_run_that_is_here_where_its_storage_is_away(first: Path, there: Path) -> None:
    said: list[str] = []
    there.rename(there.with_name("away"))
    recovery.bring(there.as_uri(), first, said.append, lambda: False)
    assert len(said) == 1 and said[0].startswith(f"goes on with the run in '{first}': ")
    assert (first / "journal.jsonl").exists()
