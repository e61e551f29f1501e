"""A disk that is full ends a run with the sentence that says so, also where its journal does not fit either."""

from pathlib import Path

import pytest
from disks import no_file_beyond
from training import REGRESSION

from pipelines import local, runs, tasks
from pipelines.journal import Journal, has_ended, note
from pipelines.runs import Run
from pipelines.settings import Launch

ROOM_BYTES = 2_000_000
WHERE = Launch(local=True, threads=1)


def create(folder: Path, word: str, **flags: object) -> Run:
    task = tasks.find(word)
    return runs.create(word, task, task.config.Config(**flags), WHERE, folder)


def test_a_checkpoint_and_a_journal_that_do_not_fit_are_the_sentence_of_the_checkpoint(tmp_path: Path) -> None:
    run = create(tmp_path / "run", "classifier", epochs=1, batch_size=256)
    said = r"the checkpoint of step 6 cannot be written .*File too large.*; make room, then `--resume .*` goes on"
    with no_file_beyond(1_000), pytest.raises(ValueError, match=said):
        local.train([run], WHERE)


def test_a_journal_alone_that_does_not_fit_is_a_sentence_and_the_run_goes_on_once_there_is_room(tmp_path: Path) -> None:
    run = create(tmp_path / "run", REGRESSION, epochs=5)
    note(run.folder, {"event": "note", "text": "x" * ROOM_BYTES})
    said = r"/run' cannot be written \(.*File too large.*\); make room, then `--resume .*/run` goes on"
    with no_file_beyond(ROOM_BYTES), pytest.raises(ValueError, match=said):
        local.train([run], WHERE)
    local.train([run], WHERE)
    assert has_ended(run.folder, 0)


def test_what_a_training_was_refused_for_is_in_its_journal(tmp_path: Path) -> None:
    run = create(tmp_path / "run", REGRESSION, lr=50.0)
    Journal(run.folder).close()
    with pytest.raises(ValueError, match="the loss is ") as raised:
        local.train([run], WHERE)
    assert str(raised.value) in (run.folder / "journal.jsonl").read_text()
