"""A run's folder is copied to a storage whole or not at all, and the run goes on elsewhere from there."""

import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import training
from disks import no_file_beyond
from training import PARITY

from pipelines import checkpoint, runs, sealed, storage, tasks
from pipelines.mirror import Mirror
from pipelines.place import Place
from pipelines.saving import Keeping, Saver
from pipelines.settings import Launch

EPOCHS: dict[str, Any] = {"epochs": 2, "checkpoint_steps": 5}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that has its description."""
    task = tasks.find(PARITY)
    return runs.create(PARITY, task, task.config.Config(epochs=2), Launch(), tmp_path / "here" / "run").folder


def _train(run_dir: Path, there: Path | str, **more: Any) -> training.Outcome:
    return training.train(run_dir, PARITY, keeping=Keeping(storage=str(there)), **EPOCHS, **more)


def _begin(run_dir: Path, there: Path) -> None:
    training.stop(run_dir, word=PARITY, stop_at=40, keeping=Keeping(storage=str(there)), **EPOCHS)


def test_a_run_is_copied_with_its_newest_checkpoints_and_its_model(run_dir: Path, there: Path) -> None:
    _train(run_dir, there)
    names = {"artifact", "checkpoints", "run.json", "statistics.safetensors"}
    assert {path.name for path in (there / "run").iterdir()} == names
    sealed.verify(there / "run" / "artifact")
    kept = [place.name for place in checkpoint.whole(run_dir / "checkpoints")]
    assert [place.name for place in checkpoint.whole(there / "run" / "checkpoints")] == kept


def test_a_run_goes_on_where_nothing_of_it_is_left(tmp_path: Path, run_dir: Path, there: Path) -> None:
    _begin(run_dir, there)
    shutil.rmtree(run_dir)
    folder = storage.fetch_run(str(there / "run"), tmp_path / "elsewhere")
    assert runs.reopen(folder).word == PARITY
    resumed = _train(folder, there)
    assert resumed.named("resume")[0]["step"] >= 30
    assert resumed.named("state") == training.train(tmp_path / "whole", PARITY, **EPOCHS).named("state")


def test_what_is_not_whole_there_is_passed_over(run_dir: Path, there: Path) -> None:
    _begin(run_dir, there)
    shutil.rmtree(run_dir / "checkpoints")
    older, torn, wrong = there / "run" / "checkpoints", "step-000000099", "step-000000098"
    newest = checkpoint.steps(older)[-1]
    shutil.copytree(newest, older / torn)
    (older / torn / sealed.MANIFEST).unlink()
    shutil.copytree(newest, older / wrong)
    (older / wrong / "state.json").write_text("{}")
    resumed = _train(run_dir, there)
    assert resumed.named("resume")[0]["step"] == int(newest.name[-2:])


def test_a_checkpoint_that_is_pruned_while_it_is_copied_arrives_whole_and_the_last_whole_one_there_stays(
    run_dir: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, copies, copy, step = run_dir / "checkpoints", there / "run" / "checkpoints", storage.Storage.push, count(1)
    whole_meanwhile: list[int] = []

    def slow(self: storage.Storage, path: Path, name: str) -> None:
        if path.name == checkpoint.STATE:  # as long as it is copied, two more are written, and it is pruned
            whole_meanwhile.append(len(checkpoint.whole(copies)))
            for _ in range(2):
                checkpoint.write(here, next(step), {}, keep=2)
        copy(self, path, name)

    monkeypatch.setattr(storage.Storage, "push", slow)
    checkpoint.write(here, next(step), {}, keep=2)
    mirror = Mirror(str(there), run_dir)
    for _ in range(4):
        mirror.forget_after(1000)  # copies what is here
        assert checkpoint.whole(copies)
    assert whole_meanwhile[0] == 0 and min(whole_meanwhile[1:]) >= 1
    monkeypatch.undo()
    mirror.close(10, whole=False)
    assert [place.name for place in checkpoint.steps(copies)] == [place.name for place in checkpoint.steps(here)]
    assert mirror.problems() == []
    assert not (run_dir / ".leaving").exists()


def test_what_arrives_shorter_than_it_was_is_not_taken_for_whole(
    run_dir: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = storage.Storage.push

    def lossy(self: storage.Storage, path: Path, name: str) -> None:
        copy(self, path, name)
        if path.name == checkpoint.TENSORS:
            (there / name).write_bytes(b"")

    checkpoint.write(run_dir / "checkpoints", 1, {})
    monkeypatch.setattr(storage.Storage, "push", lossy)
    mirror = Mirror(str(there), run_dir)
    mirror.close(10, whole=False)
    assert "has 0 bytes there after" in mirror.problems()[0]["problem"]
    assert not checkpoint.whole(there / "run" / "checkpoints")


def test_another_run_of_the_same_name_is_neither_taken_nor_written_over(
    tmp_path: Path, run_dir: Path, there: Path
) -> None:
    _train(run_dir, there)
    before = (there / "run" / "run.json").read_bytes()
    task = tasks.find(PARITY)
    other = runs.create(PARITY, task, task.config.Config(epochs=2), Launch(), tmp_path / "other" / "run").folder
    with pytest.raises(ValueError, match=r"there/run' holds another run; give this one another name by --run-dir"):
        _train(other, there)
    assert (there / "run" / "run.json").read_bytes() == before
    with pytest.raises(ValueError, match=r"other/run' is another run than '.*there/run'"):
        storage.fetch_run(str(there / "run"), tmp_path / "other")


def test_a_storage_that_cannot_be_written_stops_no_training(run_dir: Path, there: Path) -> None:
    there.write_text("a file where a folder should be")
    outcome = _train(run_dir, there)
    assert outcome.metrics
    (event,) = outcome.named("storage")
    assert "cannot be reached or written" in event["problem"] and "training goes on" in event["problem"]


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://{}/../here/"])
def test_a_run_folder_below_its_own_storage_is_not_copied_onto_itself(run_dir: Path, form: str) -> None:
    (run_dir / "journal.jsonl").write_text('{"event": "loading"}\n')
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in run_dir.iterdir()}
    outcome = _train(run_dir, form.format(run_dir.parent))
    assert outcome.named("storage") == []
    assert len(checkpoint.whole(run_dir / "checkpoints")) >= 2
    assert {path: (path.read_bytes(), path.stat().st_ino) for path in before} == before


def test_a_file_is_not_copied_onto_itself(run_dir: Path, there: Path) -> None:
    there.symlink_to(run_dir.parent)
    before = (run_dir / "run.json").stat()
    storage.Storage(there.as_uri()).push(run_dir / "run.json", "run/run.json")
    assert (run_dir / "run.json").stat() == before


def test_a_copy_that_is_broken_off_leaves_the_old_file(tmp_path: Path, there: Path) -> None:
    path, bucket = tmp_path / "file", storage.Storage(there.as_uri())
    path.write_bytes(b"old")
    bucket.push(path, "run/file")
    path.write_bytes(bytes(200_000))
    with no_file_beyond(100_000), pytest.raises(OSError, match="File too large"):
        bucket.push(path, "run/file")
    assert [(file.name, file.read_bytes()) for file in (there / "run").iterdir()] == [("file", b"old")]


def test_a_description_there_that_is_empty_is_written_anew(run_dir: Path, there: Path) -> None:
    one, copy = Mirror(str(there), run_dir), there / "run" / "run.json"
    for mirror in (one, one, Mirror(str(there), run_dir)):
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"")
        mirror.forget_after(1000)  # copies what is here
        assert copy.read_bytes() == (run_dir / "run.json").read_bytes()
        assert mirror.problems() == []


def test_a_description_there_that_is_empty_is_a_sentence_unless_the_run_is_here(
    tmp_path: Path, run_dir: Path, there: Path
) -> None:
    Mirror(str(there), run_dir).close(10, whole=False)
    (there / "run" / "run.json").write_bytes(b"")
    with pytest.raises(ValueError, match=r"run' holds no run that can be read: its run\.json is damaged"):
        storage.fetch_run(str(there / "run"), tmp_path / "elsewhere")
    assert storage.fetch_run(str(there / "run"), run_dir.parent) == run_dir


def test_what_has_not_changed_is_not_copied_again(run_dir: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[str] = []
    copy = storage.Storage.push

    def noted(self: storage.Storage, path: Path, name: str) -> None:
        pushed.append(path.name)
        copy(self, path, name)

    monkeypatch.setattr(storage.Storage, "push", noted)
    mirror = Mirror(str(there), run_dir)
    for line in range(3):
        with (run_dir / "journal.jsonl").open("a") as journal:
            journal.write(f"{line}\n")
        mirror.forget_after(1000)
    assert pushed == ["journal.jsonl", "run.json", "journal.jsonl", "journal.jsonl"]
    assert (there / "run" / "journal.jsonl").read_text() == "0\n1\n2\n"


def test_what_a_killed_process_left_half_copied_spoils_no_checkpoint(
    tmp_path: Path, run_dir: Path, there: Path
) -> None:
    place = checkpoint.write(run_dir / "checkpoints", 5, {"step": 5})
    left = there / "run" / "checkpoints" / place.name / ".tensors.safetensors.1.rough"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    Mirror(str(there), run_dir).close(10, whole=False)
    sealed.verify(left.parent)
    left.write_bytes(b"half")
    shutil.rmtree(run_dir / "checkpoints")
    Mirror(str(there), run_dir).fetch_newer()
    assert checkpoint.latest(run_dir / "checkpoints") == ({"step": 5}, [])


def test_the_journal_there_tells_of_every_checkpoint_there(
    run_dir: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, copy, steps = run_dir / "journal.jsonl", storage.Storage.push, count(1)

    def take_step() -> None:
        step = next(steps)
        with journal.open("a") as file:
            file.write(f"{step}\n")
        checkpoint.write(run_dir / "checkpoints", step, {}, keep=9)

    def late(self: storage.Storage, path: Path, name: str) -> None:
        copy(self, path, name)
        if path == journal:
            take_step()

    take_step()
    monkeypatch.setattr(storage.Storage, "push", late)
    mirror = Mirror(str(there), run_dir)
    for told in ("1\n", "1\n2\n"):
        mirror.forget_after(1000)
        assert (there / "run" / "journal.jsonl").read_text() == told
        kept = [checkpoint.step_of(place.name) for place in checkpoint.whole(there / "run" / "checkpoints")]
        assert kept == [int(line) for line in told.split()]


def test_a_step_taken_again_is_the_newer_one_there_too(run_dir: Path, there: Path) -> None:
    for time in range(10):
        checkpoint.write(run_dir / "checkpoints", 5, {"time": time}, keep=1)
        if time >= 8:
            Mirror(str(there), run_dir, keep=1).close(10, whole=False)
    assert [place.name for place in checkpoint.whole(there / "run" / "checkpoints")] == ["step-000000005-10"]
    (run_dir / "checkpoints" / "step-000000005-10").rename(run_dir / "checkpoints" / "step-000000005-9")
    Mirror(str(there), run_dir).fetch_newer()
    assert checkpoint.steps(run_dir / "checkpoints")[-1].name == "step-000000005-10"


def _scored(run_dir: Path, there: Path, scores: Mapping[int, float | None]) -> None:
    """Goes on with a run as one machine does, with a checkpoint at each step."""
    with Saver(run_dir, Place(), lambda event: None, Keeping(keep=2, storage=str(there))) as saver:
        saver.latest()
        for step, score in scores.items():
            saver.save(step, {"step": step}, score)


def test_the_best_and_the_newest_stay_there_whatever_machine_the_run_goes_on_from(
    tmp_path: Path, run_dir: Path, there: Path
) -> None:
    copies = there / "run" / "checkpoints"
    _scored(run_dir, there, {5: 0.9, 10: 0.1, 15: 0.2})
    kept = [[checkpoint.step_of(place.name) for place in checkpoint.whole(copies)]]
    for machine, scores in enumerate(({}, {20: 0.3}, {25: 0.4, 30: None}, {35: 0.1})):
        folder = storage.fetch_run(str(there / "run"), tmp_path / f"machine-{machine}")
        _scored(folder, there, scores)
        kept.append([checkpoint.step_of(place.name) for place in checkpoint.whole(copies)])
    assert kept == [[5, 10, 15], [5, 10, 15], [5, 15, 20], [5, 25, 30], [5, 30, 35]]


def test_a_run_that_goes_back_on_purpose_forgets_what_came_later_there_too(run_dir: Path, there: Path) -> None:
    saver = Saver(run_dir, Place(), lambda event: None, Keeping(keep=9, storage=str(there)))
    for step in (5, 10, 15):
        saver.save(step, {"step": step}, None)
    saver.wait()
    saver.forget_after(5)
    with Saver(run_dir, Place(), lambda event: None, Keeping(storage=str(there))) as again:
        assert again.latest() == ({"step": 5}, [])
    assert [place.name for place in checkpoint.whole(there / "run" / "checkpoints")] == ["step-000000005"]
    with saver:
        saver.save(7, {"step": 7}, None)
    assert [place.name[-1] for place in checkpoint.whole(there / "run" / "checkpoints")] == ["5", "7"]


def test_an_address_without_a_run_is_a_sentence(tmp_path: Path, there: Path) -> None:
    with pytest.raises(ValueError, match=r"run' holds no run: there is no run\.json in it"):
        storage.fetch_run(str(there / "run"), tmp_path)
    with pytest.raises(ValueError, match=r"--storage is 'ftp://x/y'; it must be a folder, s3://BUCKET"):
        Launch(storage="ftp://x/y")
