"""A run whose checkpoints are gone is refused, and not begun anew without a word; one that had none yet begins."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from test_guards import POINTS, at_steps, guard_events
from training import PARITY, REGRESSION

from pipelines import runs, tasks
from pipelines.journal import Journal
from pipelines.saving import Keeping
from pipelines.settings import Launch
from pipelines.stopping import Stopped

OFTEN: dict[str, Any] = {"epochs": 2, "checkpoint_steps": 5}
TROUBLE: dict[str, Any] = POINTS | {"wrap": at_steps(14), "guard_skips": 0, "guard_halvings": 0}
"""Step 14 is skipped, and at step 20 the run goes back to step 12."""


def train(folder: Path, word: str = PARITY, hear: Callable[[dict[str, Any]], None] | None = None, **flags: Any) -> Any:
    """Trains as `training.train` does, with a journal in the run's folder."""
    journal = Journal(folder)

    def write(event: dict[str, Any]) -> None:
        journal.append(event)
        if hear is not None:
            hear(event)

    try:
        return training.train(folder, word, hear=write, **flags)
    finally:
        journal.close()


def cut(folder: Path, stop_at: int, **flags: Any) -> None:
    with pytest.raises(training.Stopped):
        train(folder, stop_at=stop_at, **flags)


def test_a_run_whose_checkpoints_were_deleted_is_refused_unless_it_is_to_begin_anew(tmp_path: Path) -> None:
    cut(tmp_path, 20, **OFTEN)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(
        ValueError, match=rf"the run in '{tmp_path}' has written checkpoints, .*--resume-anyway to begin"
    ):
        train(tmp_path, **OFTEN)
    anew = train(tmp_path, keeping=Keeping(anyway=True), **OFTEN)
    assert anew.named("start")[0]["step"] == 0
    assert anew.named("state") == training.train(tmp_path / "whole", PARITY, **OFTEN).named("state")


def test_a_run_that_resumed_once_and_then_lost_its_checkpoints_is_refused_too(tmp_path: Path) -> None:
    cut(tmp_path, 20, **OFTEN)
    cut(tmp_path, 30, **OFTEN)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="none is left there"):
        train(tmp_path, **OFTEN)


def test_a_run_cut_short_before_its_first_checkpoint_begins_at_the_first_step(tmp_path: Path) -> None:
    cut(tmp_path, 4, **OFTEN)
    assert "checkpoint" not in (tmp_path / "journal.jsonl").read_text()
    assert train(tmp_path, **OFTEN).named("start")[0]["step"] == 0


def test_a_run_of_which_no_checkpoint_could_be_written_begins_at_the_first_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append({"event": "start", "step": 0})
    journal.append({"event": "checkpoint", "step": 5, "problem": "the disk was full"})
    journal.close()
    assert train(tmp_path, **OFTEN).named("start")[0]["step"] == 0


def test_a_run_whose_checkpoints_are_in_a_storage_that_is_away_is_refused_and_goes_on_when_it_is_back(
    tmp_path: Path,
) -> None:
    task, there, away = tasks.find(PARITY), tmp_path / "there", tmp_path / "away"
    run_dir = runs.create(PARITY, task, task.config.Config(epochs=2), Launch(), tmp_path / "run").folder
    kept: dict[str, Any] = OFTEN | {"keeping": Keeping(storage=str(there))}
    cut(run_dir, 40, **kept)
    shutil.rmtree(run_dir / "checkpoints")
    there.rename(away)
    there.write_text("a file where a folder should be")
    with pytest.raises(ValueError, match=rf"none is left there, nor can one be had from {there}; bring them back"):
        train(run_dir, **kept)
    there.unlink()
    away.rename(there)
    assert train(run_dir, **kept).named("resume")[0]["step"] >= 30


def in_trouble() -> Any:
    """Asks a run to stop in the midst of its trouble, which leaves a checkpoint that it will not go back to."""
    seen = [0]

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "steps":
            seen[0] = event["first"] + len(event["losses"])

    return {"hear": hear, "ask": lambda: "asked" if seen[0] >= 14 else "", "keeping": Keeping(keep=1)}


def test_a_roll_back_that_deletes_the_last_checkpoint_begins_anew_and_ends_the_same(tmp_path: Path) -> None:
    whole = training.train(tmp_path / "whole", REGRESSION, **TROUBLE)
    with pytest.raises(Stopped) as stopped:
        train(tmp_path / "parts", REGRESSION, **TROUBLE, **in_trouble())
    assert 14 < stopped.value.step < 20
    parts = train(tmp_path / "parts", REGRESSION, **TROUBLE)
    assert [event["step"] for event in parts.named("resume")] == [stopped.value.step]
    assert guard_events(parts, "roll back")
    assert all(torch.equal(parts.weights[name], value) for name, value in whole.weights.items())


def killed_after_roll_back() -> Callable[[dict[str, Any]], None]:
    """Ends a run at the first steps that it takes after it went back."""
    rolled: list[str] = []

    def kill(event: dict[str, Any]) -> None:
        if rolled and event["event"] == "steps":
            raise training.Stopped
        rolled.extend(["back"] * (event.get("rung") == "roll back"))

    return kill


def test_a_run_that_went_back_to_a_checkpoint_and_then_lost_it_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for event in ({"event": "checkpoint", "step": 12}, {"event": "guard", "rung": "roll back", "step": 20}):
        journal.append(event)
    journal.append({"event": "resume", "step": 12})
    journal.close()
    with pytest.raises(ValueError, match="none is left there"):
        train(tmp_path, REGRESSION, **TROUBLE)


def test_a_run_killed_after_such_a_roll_back_begins_anew_and_ends_the_same(tmp_path: Path) -> None:
    whole = training.train(tmp_path / "whole", REGRESSION, **TROUBLE)
    with pytest.raises(Stopped):
        train(tmp_path / "parts", REGRESSION, **TROUBLE, **in_trouble())
    with pytest.raises(training.Stopped):
        train(tmp_path / "parts", REGRESSION, hear=killed_after_roll_back(), **TROUBLE | {"checkpoint_steps": 0})
    assert not list((tmp_path / "parts" / "checkpoints").iterdir())
    parts = train(tmp_path / "parts", REGRESSION, **TROUBLE)
    assert parts.named("start")[0]["step"] == 0
    assert all(torch.equal(parts.weights[name], value) for name, value in whole.weights.items())
