"""Checkpoints are written beside the training, wait for nobody, and a full disk loses nothing."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from disks import no_file_beyond

from pipelines import checkpoint, sealed
from pipelines.place import Place
from pipelines.saving import Keeping, Saver

DEFAULT: dict[str, Any] = {"epochs": 2, "batch_size": 256, "accumulate": 2, "amp": True, "dropout": 0.2}
"""Batch norm, dropout, augmentation, accumulation, bfloat16; 6 steps an epoch, checkpoints of some 700 kB."""
ROOM_BYTES = 100_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> training.Outcome:
    """A run without any checkpoint within its epochs."""
    return training.train(tmp_path_factory.mktemp("whole"), **DEFAULT)


def digest(outcome: training.Outcome) -> str:
    return outcome.named("state")[-1]["digest"]


def test_what_is_written_is_the_state_of_the_step_whatever_happens_to_it_next(tmp_path: Path) -> None:
    weight = torch.zeros(1 << 20)
    saver = Saver(tmp_path, Place(), lambda event: None, Keeping(keep=9))
    for step in range(3):
        weight.fill_(step)
        saver.save(step, {"weight": weight, "step": step}, None)
        weight.fill_(-1)
    saver.finish()
    found = [checkpoint.latest(tmp_path / "checkpoints")]
    checkpoint.forget_after(tmp_path / "checkpoints", 1)
    found.append(checkpoint.latest(tmp_path / "checkpoints"))
    assert [(state["step"], state["weight"].unique().tolist()) for state, _ in filter(None, found)] == [
        (2, [2.0]),
        (1, [1.0]),
    ]


def test_tied_and_transposed_tensors_come_back(tmp_path: Path) -> None:
    tied = torch.arange(6.0).reshape(2, 3)
    image = torch.arange(48.0).reshape(1, 3, 4, 4).to(memory_format=torch.channels_last)
    saver = Saver(tmp_path, Place(), lambda event: None, Keeping())
    saver.save(1, {"in": tied, "out": tied, "turned": tied.T, "image": image}, None)
    saver.finish()
    found = saver.latest()
    assert found is not None
    assert [torch.equal(found[0][name], value) for name, value in (("out", tied), ("turned", tied.T))] == [True, True]
    assert torch.equal(found[0]["image"], image)


def test_checkpoints_change_nothing_in_what_is_learned(tmp_path: Path, whole: training.Outcome) -> None:
    often = training.train(tmp_path, checkpoint_steps=1, **DEFAULT)
    assert len(often.named("checkpoint")) >= 11
    assert digest(often) == digest(whole)


def test_two_processes_that_save_at_every_step_learn_the_same(tmp_path: Path, pair: training.Pair) -> None:
    seldom = pair.run(training.train_ranked, tmp_path / "seldom", DEFAULT)[0]
    often = pair.run(training.train_ranked, tmp_path / "often", DEFAULT | {"checkpoint_steps": 1})[0]
    assert digest(often) == digest(seldom)


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_no_training(
    tmp_path: Path, whole: training.Outcome
) -> None:
    with contextlib.ExitStack() as full:

        def fill_up(event: dict[str, Any]) -> None:
            if event["event"] == "steps" and event["first"] + len(event["losses"]) == 3:
                full.enter_context(no_file_beyond(ROOM_BYTES))
            if "problem" in event:
                full.close()

        outcome = training.train(tmp_path, checkpoint_steps=3, hear=fill_up, **DEFAULT)
    (problem,) = [event["problem"] for event in outcome.named("checkpoint") if "problem" in event]
    assert problem.startswith("the checkpoint of step 3 cannot be written below '") and "File too large" in problem
    assert digest(outcome) == digest(whole)
    assert sorted(path.name[:5] for path in (tmp_path / "checkpoints").iterdir()) == ["step-"] * 2


def test_a_last_checkpoint_that_cannot_be_written_is_a_sentence_and_the_one_before_stays(
    tmp_path: Path, whole: training.Outcome
) -> None:
    with contextlib.ExitStack() as full:

        def fill_up(event: dict[str, Any]) -> None:
            if event["event"] == "checkpoint" and event["step"] == 9:
                full.enter_context(no_file_beyond(ROOM_BYTES))

        with pytest.raises(ValueError, match=r"step 12 cannot be written .*; make room, then `--resume .*` goes on"):
            training.train(tmp_path, checkpoint_steps=3, hear=fill_up, **DEFAULT)
    newest = checkpoint.steps(tmp_path / "checkpoints")[-1]
    assert newest.name == "step-000000009"
    sealed.verify(newest)
    assert digest(training.train(tmp_path, checkpoint_steps=3, **DEFAULT)) == digest(whole)


def test_as_many_are_kept_as_asked(tmp_path: Path) -> None:
    training.train(tmp_path, training.PARITY, epochs=1, checkpoint_steps=5, keeping=Keeping(keep=4))
    assert [place.name[-2:] for place in checkpoint.steps(tmp_path / "checkpoints")] == ["10", "15", "20", "25"]
