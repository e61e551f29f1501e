"""One process: the same seed gives the same run, every example counts once, and mistakes are sentences."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from training import PARITY, PLAIN, REGRESSION

from pipelines import artifact, checkpoint, loop, tasks
from pipelines.examples import Data
from pipelines.place import Place

SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 512}


def test_the_same_seed_gives_the_same_losses_and_weights(tmp_path: Path) -> None:
    first = training.train(tmp_path / "first", **SHORT)
    second = training.train(tmp_path / "second", **SHORT)
    assert first.losses == second.losses
    assert len(first.losses) == 6
    assert _equal(first.weights, second.weights)
    assert first.metrics == second.metrics


def test_another_seed_gives_other_losses(tmp_path: Path) -> None:
    first = training.train(tmp_path / "first", **SHORT)
    second = training.train(tmp_path / "second", seed=1, **SHORT)
    assert first.losses[0] != second.losses[0]


def test_the_loss_of_every_step_is_reported_once_and_in_order(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, PARITY, epochs=2)
    ends = [event["first"] + len(event["losses"]) for event in outcome.named("steps")]
    starts = [event["first"] for event in outcome.named("steps")]
    assert starts == [0, *ends[:-1]]
    assert ends[-1] == 2 * 25
    assert [event["step"] for event in outcome.named("epoch")] == [25, 50]


def test_the_test_split_is_read_once_at_the_end_and_each_example_exactly_once(tmp_path: Path) -> None:
    kept: list[Data] = []
    read_when_testing_began: list[int] = []
    task = tasks.find("classifier")
    config = task.config.Config(**PLAIN, epochs=2)
    kept.append(training.counted(task.data.load(config)))

    def emit(event: dict) -> None:
        if event["event"] == "testing":
            read_when_testing_began.append(len(training.reads(kept[0])["test"]))

    loop.run(task, config, tmp_path, Place(), emit, kept[0])
    read = training.reads(kept[0])
    assert read_when_testing_began == [0]
    assert sorted(read["test"]) == list(range(len(kept[0].test)))
    assert sorted(read["train"]) == sorted(2 * list(range(len(kept[0].train))))


def test_accumulating_gives_the_same_trajectory(tmp_path: Path) -> None:
    whole = training.train(tmp_path / "whole", **PLAIN, epochs=1)
    parts = training.train(tmp_path / "parts", **PLAIN, epochs=1, accumulate=3)
    assert parts.losses == pytest.approx(whole.losses, abs=1e-5)
    assert _distance(parts.weights, whole.weights) < 1e-5


def test_an_uneven_accumulation_still_gives_the_mean_of_the_batch(tmp_path: Path) -> None:
    whole = training.train(tmp_path / "whole", REGRESSION, epochs=50)
    parts = training.train(tmp_path / "parts", REGRESSION, epochs=50, accumulate=4)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)


@pytest.mark.parametrize("flags", [{"schedule": "onecycle"}, {"schedule": "cosine"}, {"optimizer": "rmsprop"}])
def test_every_schedule_and_optimizer_learns(tmp_path: Path, flags: dict) -> None:
    outcome = training.train(tmp_path, PARITY, epochs=3, **flags)
    assert outcome.losses[-1] < outcome.losses[0]


def test_bfloat16_learns_as_float32_does(tmp_path: Path) -> None:
    full = training.train(tmp_path / "full", **PLAIN, epochs=3)
    half = training.train(tmp_path / "half", **PLAIN, epochs=3, amp=True)
    assert half.losses != full.losses
    assert half.losses == pytest.approx(full.losses, abs=0.05)
    assert all(value.dtype == torch.float32 for value in half.weights.values())


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, REGRESSION, epochs=1, lr=1.0, clip=0.001)
    free = training.train(tmp_path / "free", REGRESSION, epochs=1, lr=0.0)
    assert _distance(outcome.weights, free.weights) <= 0.001


def test_early_stopping_ends_the_run_and_restores_the_best(tmp_path: Path) -> None:
    rough = PLAIN | {"lr": 0.5, "epochs": 60, "early_stopping": 2}
    outcome = training.train(tmp_path, **rough)
    accuracies = [event["metrics"]["accuracy"] for event in outcome.named("epoch")]
    best = accuracies.index(max(accuracies))
    assert len(accuracies) == best + 3
    assert len(accuracies) < 60
    assert _valid_accuracy(tmp_path, rough) == pytest.approx(accuracies[best])


def test_a_run_that_stopped_early_keeps_its_best_when_resumed(tmp_path: Path) -> None:
    rough = PLAIN | {"lr": 0.5, "epochs": 60, "early_stopping": 2}
    whole = training.train(tmp_path / "whole", **rough)
    training.stop(tmp_path / "parts", stop_at=len(whole.losses) - 10, checkpoint_steps=5, **rough)
    parts = training.train(tmp_path / "parts", checkpoint_steps=5, **rough)
    assert _equal(parts.weights, whole.weights)
    assert parts.metrics == whole.metrics


def test_a_diverging_loss_is_a_sentence_that_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(loop.Diverged, match=r"the loss is (nan|inf) at step \d+; lower --lr \(now 50"):
        training.train(tmp_path, REGRESSION, lr=50.0)
    assert not (tmp_path / "artifact").exists()


def test_the_artifact_of_a_run_is_whole_and_predicts_as_the_run_said(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, PARITY)
    assert artifact.verify(tmp_path / "artifact") == outcome.named("test")[0]["digest"]
    assert artifact.task_of(tmp_path / "artifact") == "parity"
    assert outcome.metrics["accuracy"] == 1.0
    assert outcome.named("test")[0]["metrics"] == outcome.metrics


def test_the_start_says_what_is_learned_from_what(tmp_path: Path) -> None:
    start = training.train(tmp_path, REGRESSION, epochs=3).named("start")[0]
    assert start["examples"] == {"train": 5, "valid": 5, "test": 5}
    assert (start["data"], start["parameters"], start["steps"]) == ("article", 2, 3)
    assert len(start["data_digest"]) == 64


def test_checkpoints_are_few_when_epochs_are_short(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, REGRESSION, epochs=200)
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None
    assert found[0]["progress"]["step"] == 200
    assert len(list((tmp_path / "checkpoints").iterdir())) <= checkpoint.KEPT
    assert len(outcome.losses) == 200


def _valid_accuracy(folder: Path, flags: dict) -> float:
    task = tasks.find("classifier")
    data = task.data.load(task.config.Config(**flags))
    network = task.model.Model.load(folder / "artifact").network
    with torch.no_grad():
        sums = task.train.measure(network, data.valid.batch(torch.arange(len(data.valid)), None))
    return task.train.metrics(sums)["accuracy"]


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(((first[name] - second[name]).double() ** 2).sum()) for name in first))
