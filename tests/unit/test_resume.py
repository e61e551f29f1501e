"""A run that was cut short and resumed ends with the very weights of one that was not."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from test_guards import Poisoned

from pipelines import batches, sealed
from pipelines.examples import Data
from pipelines.place import Place

DEFAULT: dict[str, Any] = {"epochs": 3, "batch_size": 256}
"""The default recipe: batch norm, dropout, augmentation, one-cycle; 6 steps an epoch."""
CHILD = """
import sys
from pathlib import Path
import training
from pipelines import loop, tasks
from pipelines.place import Place
task = tasks.find("classifier")
say = lambda event: print(event["event"], event.get("first", ""), flush=True)
loop.run(task, task.config.Config(epochs=3, batch_size=256), Path(sys.argv[1]), Place(), say, None, 2)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> training.Outcome:
    return training.train(tmp_path_factory.mktemp("whole"), **DEFAULT)


def test_a_run_stopped_in_an_epoch_ends_bit_identical(tmp_path: Path, whole: training.Outcome) -> None:
    training.stop(tmp_path, stop_at=9, checkpoint_steps=4, **DEFAULT)
    resumed = training.train(tmp_path, checkpoint_steps=4, **DEFAULT)
    assert resumed.named("resume") == [{"event": "resume", "step": 8, "problems": [], "inexact": []}]
    assert resumed.losses == whole.losses[8:]
    _assert_same(resumed, whole)


def test_a_run_killed_without_warning_ends_bit_identical(tmp_path: Path, whole: training.Outcome) -> None:
    path = os.pathsep.join([str(training.ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            kind, _, first = line.partition(" ")
            if kind == "steps" and int(first) >= 8:
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    resumed = training.train(tmp_path, checkpoint_steps=2, **DEFAULT)
    assert resumed.named("resume")[0]["step"] >= 8
    _assert_same(resumed, whole)


def test_two_processes_stopped_in_an_epoch_end_bit_identical(tmp_path: Path, pair: training.Pair) -> None:
    settings = DEFAULT | {"checkpoint_steps": 4}
    uncut = pair.run(training.train_ranked, tmp_path / "whole", settings)[0]
    pair.run(training.stop_ranked, tmp_path / "parts", 9, settings)
    resumed = pair.run(training.train_ranked, tmp_path / "parts", settings)[0]
    assert resumed.named("resume")[0]["step"] == 8
    _assert_same(resumed, uncut)


def test_two_processes_stopped_before_a_bad_batch_mend_the_running_means_of_each(
    tmp_path: Path, pair: training.Pair
) -> None:
    uncut = pair.run(meet_a_bad_batch, tmp_path / "whole")[0]
    pair.run(meet_a_bad_batch, tmp_path / "parts", 9)
    resumed = pair.run(meet_a_bad_batch, tmp_path / "parts")[0]
    assert resumed.named("resume")[0]["step"] == 8
    assert [event["steps"] for event in resumed.named("guard")] == [[9]]
    assert resumed.named("state") == uncut.named("state")
    _assert_same(resumed, uncut)


def test_a_finished_run_that_is_resumed_learns_nothing_more(tmp_path: Path) -> None:
    first = training.train(tmp_path, training.REGRESSION, epochs=5)
    again = training.train(tmp_path, training.REGRESSION, epochs=5)
    assert again.losses == []
    assert again.metrics == first.metrics
    assert again.named("test")[0]["digest"] == first.named("test")[0]["digest"]


def test_a_corrupt_checkpoint_is_passed_over_said_and_replaced(tmp_path: Path, whole: training.Outcome) -> None:
    training.stop(tmp_path, stop_at=9, checkpoint_steps=4, **DEFAULT)
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    content = bytearray((newest / "tensors.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "tensors.safetensors").write_bytes(content)
    resumed = training.train(tmp_path, checkpoint_steps=4, **DEFAULT)
    (event,) = resumed.named("resume")
    assert event["step"] < 8
    assert "'tensors.safetensors'" in event["problems"][0] and "step-000000008" in event["problems"][0]
    _assert_same(resumed, whole)


def test_a_step_taken_again_replaces_its_corrupt_checkpoint(tmp_path: Path) -> None:
    training.stop(tmp_path, stop_at=9, checkpoint_steps=4, **DEFAULT)
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    (newest / "state.json").write_text("{")
    training.stop(tmp_path, stop_at=9, checkpoint_steps=4, **DEFAULT)
    sealed.verify(newest)


def test_a_run_with_no_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    training.train(tmp_path, training.REGRESSION, epochs=5)
    for place in (tmp_path / "checkpoints").iterdir():
        (place / "state.json").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint below .* is whole: .* lacks 'state.json'"):
        training.train(tmp_path, training.REGRESSION, epochs=5)


def test_a_run_whose_checkpoints_are_cut_short_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    training.train(tmp_path, training.REGRESSION, epochs=5)
    for place in (tmp_path / "checkpoints").iterdir():
        os.truncate(place / "tensors.safetensors", 100)
    before = sorted((tmp_path / "checkpoints").rglob("*"))
    with pytest.raises(ValueError, match=r"no checkpoint below .* is whole: 'tensors\.safetensors' in .*SHA-256"):
        training.train(tmp_path, training.REGRESSION, epochs=5)
    assert sorted((tmp_path / "checkpoints").rglob("*")) == before


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path) -> None:
    training.stop(tmp_path, word=training.PARITY, stop_at=30, epochs=2, checkpoint_steps=5)
    with pytest.raises(ValueError, match=r"learned from other data .*start a new run, or add --resume-anyway"):
        training.train(tmp_path, training.PARITY, epochs=2, longest=9)


def meet_a_bad_batch(rank: int, folder: Path, stop_at: int = 0) -> training.Outcome | None:
    """Trains as one of the pair, whose second rank has a bad example at step 9; stops before batch `stop_at`."""
    index = int(batches.training(0, 1, 1433, 256, None)[3][1])

    def wrap(data: Data) -> Data:
        spoiled = replace(data, train=Poisoned(data.train, {(1, index)}))
        return replace(data, train=training.Interrupted(spoiled.train, stop_at)) if stop_at else spoiled

    settings: dict[str, Any] = {"epochs": 2, "batch_size": 256, "checkpoint_steps": 4}
    try:
        return training.train(folder, place=Place(rank, 2), wrap=wrap, **settings)
    except training.Stopped:
        return None


def _assert_same(one: training.Outcome, other: training.Outcome) -> None:
    ours, theirs = one.weights, other.weights
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert one.metrics == other.metrics
