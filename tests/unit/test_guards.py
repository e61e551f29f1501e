"""Steps that are not finite are skipped, then met with half the rate, a roll back and a report; exact under resume."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import planted
import pytest
import torch
import training
from torch import Tensor
from training import PLAIN, REGRESSION

from pipelines import batches, checkpoint, loop, tasks
from pipelines.examples import Draw, Split
from pipelines.guards import Guards
from pipelines.place import Place
from pipelines.settings import Settings
from pipelines.steps import Stepper

POINTS: dict[str, Any] = {"batch_size": 1, "epochs": 12, "guard_window": 10, "lr": 0.1, "checkpoint_steps": 3}
"""The regression on single points: 5 steps an epoch, 60 in all."""


class Poisoned(training.Counted):
    """A split that gives NaN at some (epoch, example)."""

    def __init__(self, split: Split, where: set[tuple[int, int]]) -> None:
        super().__init__(split)
        self.where = where

    def batch(self, index_B: Tensor, draw: Draw | None) -> Any:
        found = super().batch(index_B, draw)
        bad_B = torch.tensor([draw is not None and (draw.epoch, int(one)) in self.where for one in index_B])
        first = found[0].float()
        shaped = bad_B.reshape(-1, *[1] * (first.dim() - 1))
        parts = (first.masked_fill(shaped, math.nan), *found[1:])
        return type(found)(*parts) if hasattr(found, "_fields") else parts


def poison(*where: tuple[int, int]) -> Any:
    return lambda data: replace(data, train=Poisoned(data.train, set(where)))


def at_steps(*steps: int) -> Any:
    """Poisons the single points of these steps."""
    return poison(*((step // 5, int(batches.training(0, step // 5, 5, 1, None)[step % 5])) for step in steps))


def guard_events(outcome: training.Outcome, rung: str) -> list[dict[str, Any]]:
    return [event for event in outcome.named("guard") if event["rung"] == rung]


def test_a_step_that_is_not_finite_is_skipped_and_the_run_goes_on(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, REGRESSION, wrap=at_steps(7, 23), **POINTS)
    assert [event["steps"] for event in guard_events(outcome, "skip")] == [[7], [23]]
    assert [math.isnan(loss) for loss in outcome.losses] == [step in (7, 23) for step in range(60)]
    assert len(outcome.named("guard")) == 2
    assert all(value.isfinite().all() for value in outcome.weights.values())


@pytest.mark.parametrize("flags", [{"optimizer": "rmsprop"}, {"optimizer": "adamw"}, {"momentum": 0.9}])
def test_a_skipped_step_leaves_weights_and_optimizer_as_if_it_had_not_been(tmp_path: Path, flags: dict) -> None:
    short: dict[str, Any] = POINTS | {"epochs": 1} | flags
    skipped = training.train(tmp_path / "skipped", REGRESSION, wrap=at_steps(0, 4), **short)
    state = checkpoint.latest(tmp_path / "skipped" / "checkpoints")
    assert state is not None
    kept = [value for one in state[0]["optimizer"]["state"].values() for value in one.values()]
    assert all(value.isfinite().all() for value in kept)
    assert all(value.isfinite().all() for value in skipped.weights.values())
    steps = [int(one["step"]) for one in state[0]["optimizer"]["state"].values() if "step" in one]
    assert set(steps) <= {3}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_running_means_that_a_skipped_batch_spoiled_are_brought_back(tmp_path: Path, ema: float) -> None:
    outcome = training.train(tmp_path, wrap=poison((0, 5), (1, 77)), epochs=2, batch_size=256, ema=ema)
    assert len(guard_events(outcome, "skip")) == 2
    assert all(value.isfinite().all() for value in outcome.weights.values())
    assert math.isfinite(outcome.metrics["loss"])


def test_more_skips_than_allowed_halve_the_rate(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, REGRESSION, wrap=at_steps(21, 22), guard_skips=1, **POINTS)
    assert guard_events(outcome, "halve") == [{"event": "guard", "rung": "halve", "step": 30, "factor": 0.5}]
    rates = {event["first"]: event["lr"] for event in outcome.named("steps")}
    assert {rate for first, rate in rates.items() if first < 30} == {0.1}
    assert {rate for first, rate in rates.items() if first >= 30} == {0.05}


def test_after_a_roll_back_the_batch_is_left_out_and_the_rate_is_lower(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, REGRESSION, wrap=at_steps(14), guard_skips=0, guard_halvings=0, **POINTS)
    (back,) = guard_events(outcome, "roll back")
    assert (back["step"], back["to"], back["factor"], back["left_out"]) == (20, 12, 0.5, [14])
    again = [event for event in outcome.named("steps") if event["lr"] == 0.05]
    assert again[0]["first"] == 12
    assert len(guard_events(outcome, "skip")) == 1
    assert not guard_events(outcome, "stop")


def test_a_run_that_nothing_helps_stops_with_a_report_of_module_batch_and_examples(tmp_path: Path) -> None:
    with pytest.raises(loop.Diverged, match=r"the loss is nan at step 16; lower --lr .* examples? \d; report.json"):
        training.train(tmp_path, REGRESSION, wrap=at_steps(14, 15, 16), guard_skips=0, guard_halvings=0, **POINTS)
    said = json.loads((tmp_path / "report.json").read_text())
    assert (said["step"], said["epoch"], said["batch"], said["module"]) == (16, 3, 1, "batch")
    (example,) = said["examples"]
    assert example["index"] == int(batches.training(0, 3, 5, 1, None)[1])
    assert example["holds"][0] == {"shape": [1, 1], "dtype": "float32", "between": [], "not_finite": 1}
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("odd", "part"),
    [("return x * self.scale + torch.log(x * 0 - 1)", "output"), ("return x + torch.sqrt(x * 0)", "gradient")],
)
def test_the_report_names_the_module_whose_output_or_gradient_breaks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str, part: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    task = planted.plant(tmp_path, f"broken_{part}", odd)
    with pytest.raises(loop.Diverged, match="odd"):
        training.train(tmp_path / "run", str(task.folder), guard_skips=0, guard_halvings=0, **POINTS)
    said = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (said["module"], said["part"]) == ("odd", part)
    assert len(said["examples"]) == 1


@pytest.mark.parametrize(
    "flags",
    [{"epochs": 1}, {"early_stopping": 2, "guard_window": 64}, {"early_stopping": 1, "guard_window": 10}],
    ids=["short", "stopped early in a window", "stopped early at a window's end"],
)
def test_a_run_of_nothing_but_skipped_steps_does_not_end_as_if_it_had_learned(tmp_path: Path, flags: dict) -> None:
    short: dict[str, Any] = POINTS | flags
    everything = poison(*((epoch, index) for epoch in range(12) for index in range(5)))
    with pytest.raises(loop.Diverged):
        training.train(tmp_path, REGRESSION, wrap=everything, **short)


def test_without_guards_the_first_such_step_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(loop.Diverged, match="the loss is nan at step 7; lower --lr"):
        training.train(tmp_path, REGRESSION, wrap=at_steps(7), guards=False, **POINTS)


def stepper_of(flags: dict[str, Any]) -> Stepper:
    task = tasks.find(REGRESSION)
    config = task.config.Config(**flags)
    torch.manual_seed(0)
    network = task.model.Model.create(config, task.data.load(config)).network
    groups = [{"params": list(network.parameters())}]
    return Stepper(network, task.train.loss, groups, config, torch.device("cpu"), 0, 1)


def points_of_the_article() -> Split:
    task = tasks.find(REGRESSION)
    return task.data.load(task.config.Config()).train


LADDERS = {
    "skip": (at_steps(7, 23), {}),
    "halve": (at_steps(21, 25), {"guard_skips": 1}),
    "roll back": (at_steps(14), {"guard_skips": 0, "guard_halvings": 0}),
    "all": (at_steps(11, 14, 24, 28), {"guard_skips": 1, "guard_rollbacks": 3}),
}


@pytest.mark.parametrize("name", LADDERS)
def test_a_run_stopped_anywhere_on_the_ladder_ends_bit_identical(tmp_path: Path, name: str) -> None:
    wrap, flags = LADDERS[name]
    settings: dict[str, Any] = POINTS | {"momentum": 0.9, "lr": 0.01, "wrap": wrap} | flags
    whole = training.train(tmp_path / "whole", REGRESSION, **settings)
    assert name == "all" or guard_events(whole, name)
    for stop_at in (8, 13, 17, 22, 29, 31, 44):
        folder = tmp_path / str(stop_at)
        training.stop(folder, word=REGRESSION, stop_at=stop_at, **settings)
        parts = training.train(folder, REGRESSION, **settings)
        assert all(torch.equal(parts.weights[key], value) for key, value in whole.weights.items()), stop_at
        assert parts.metrics == whole.metrics


def test_a_roll_back_with_no_checkpoint_begins_anew_and_ends_the_same(tmp_path: Path) -> None:
    wrap, flags = LADDERS["roll back"]
    settings: dict[str, Any] = POINTS | {"wrap": wrap} | flags | {"checkpoint_steps": 0}
    sparse, again = (training.train(tmp_path / name, REGRESSION, **settings) for name in ("one", "other"))
    (back,) = guard_events(sparse, "roll back")
    assert back["to"] == 10
    assert all(torch.equal(again.weights[key], value) for key, value in sparse.weights.items())


def test_two_processes_climb_alike(tmp_path: Path, pair: training.Pair) -> None:
    outcomes = pair.run(train_poisoned, tmp_path)
    (back,) = guard_events(outcomes[0], "roll back")
    assert len(guard_events(outcomes[0], "skip")) == 1
    assert outcomes[0].metrics == outcomes[1].metrics
    assert back["left_out"] == [2]
    alone = train_poisoned(0, tmp_path / "alone", 1)
    assert outcomes[0].losses == pytest.approx(alone.losses, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_stop_with_one_report(tmp_path: Path, pair: training.Pair, shard: bool) -> None:
    with pytest.raises(loop.Diverged, match=r"the loss is nan at step 2; .* in the batch itself, with training examp"):
        pair.run(train_poisoned, tmp_path, 2, 0, shard)
    (example,) = json.loads((tmp_path / "report.json").read_text())["examples"]
    assert example["index"] == int(batches.training(0, 0, 1433, 512, None)[2][101])


def test_the_report_names_a_module_of_a_network_in_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: training.Pair
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    task = planted.plant(tmp_path, "broken_share", "return x * self.scale + torch.log(x * 0 - 1)")
    flags = POINTS | {"word": str(task.folder), "shard": True, "guard_skips": 0, "guard_halvings": 0, "batch_size": 5}
    with pytest.raises(loop.Diverged, match=r"module 'odd' \(its output\), with training examples 0, 1, 2, 3, 4;"):
        pair.run(training.train_ranked, tmp_path / "run", flags)


def train_poisoned(
    rank: int, folder: Path, world: int = 2, rollbacks: int = 1, shard: bool = False
) -> training.Outcome:
    """Poisons one example, which one of the ranks alone sees."""
    index = int(batches.training(0, 0, 1433, 512, None)[2][101])
    flags: dict[str, Any] = PLAIN | {
        "epochs": 3,
        "batch_size": 512,
        "guard_window": 4,
        "guard_skips": 0,
        "guard_halvings": 0,
    }
    flags |= {"guard_rollbacks": rollbacks, "shard": shard}
    place = training.Place(rank, world)
    return training.train(folder, place=place, wrap=poison((0, index)), **flags)


@pytest.mark.parametrize(
    "flags", [{"optimizer": "adamw"}, {"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9}]
)
def test_what_a_gpu_decides_without_the_host_is_what_the_host_would_decide(tmp_path: Path, flags: dict) -> None:
    """Fused optimizers read the verdict from a tensor, on a CPU as well as on a GPU."""
    points, spoiled = points_of_the_article(), torch.tensor([0, 3])
    steppers = [stepper_of(flags) for _ in range(2)]
    steppers[1].skips_on_device = True
    for stepper in steppers:
        for step in range(6):
            split = Poisoned(points, {(step, int(one)) for one in spoiled} if step in (0, 4) else set())
            stepper.step(split, torch.arange(5), Draw(0, step), step, 6)
        assert [norm.isfinite().item() for norm in stepper.take_norms()] == [False, True, True, True, False, True]
    here, there = (list(stepper.network.parameters()) for stepper in steppers)
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))
    states = [stepper.state()["optimizer"]["state"] for stepper in steppers]
    assert all(torch.equal(states[0][at][key], states[1][at][key]) for at in states[0] for key in states[0][at])


def test_float16_skips_of_the_scaler_are_no_rungs_but_a_loss_that_is_not_finite_is(tmp_path: Path) -> None:
    stepper = stepper_of({})
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    points: Any = points_of_the_article()
    points.y = points.y * 1000  # so that the scaled gradient overflows about ten times
    for step in range(4):
        stepper.step(points, torch.arange(5), Draw(0, step), step, 6)
    weights = [value.clone() for value in stepper.network.parameters()]
    assert all(norm.isfinite() for norm in stepper.take_norms())
    assert stepper.scaler.get_scale() == 2.0**123
    stepper.step(Poisoned(points, {(4, 2)}), torch.arange(5), Draw(0, 4), 4, 6)
    (norm,) = stepper.take_norms()
    assert not norm.isfinite()
    assert all(torch.equal(one, other) for one, other in zip(weights, stepper.network.parameters(), strict=True))


def test_float16_keeps_its_scale_where_bad_batches_are_tolerated(tmp_path: Path) -> None:
    bad = poison(*((epoch, 0) for epoch in range(30)))
    settings: dict[str, Any] = POINTS | {"epochs": 30, "lr": 0.001, "amp": "fp16", "guard_skips": 10}
    outcome = training.train(tmp_path, REGRESSION, wrap=bad, **settings)
    assert sum(len(event["steps"]) for event in guard_events(outcome, "skip")) == 30
    state = checkpoint.latest(tmp_path / "checkpoints")
    assert state is not None
    assert state[0]["scaler"]["scale"] >= 2.0**12  # a gradient or two overflowed


def test_float16s_scale_comes_back_to_1_at_least() -> None:
    stepper = stepper_of({"amp": "fp16"})
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-140)
    stepper.undo_halvings(3)
    assert stepper.scaler.get_scale() == 1.0


def test_a_checkpoint_with_the_running_means_of_one_rank_alone_is_gone_on_with() -> None:
    network = torch.nn.BatchNorm1d(2)
    guards = Guards(Settings(), network, lambda event: None, lambda last: ValueError(), Place())
    ladder = {key: value for key, value in guards.state()["ladder"].items() if key != "unsettled"}
    skipped = [{"step": 2, "loss": math.nan, "norm": math.nan}]
    older = {"ladder": ladder | {"skipped": skipped}, "buffers": [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]}
    guards.restore(older, 3)
    network(torch.full((4, 2), math.nan))
    guards.check(4, 100)
    means = [network.get_buffer(name).tolist() for name in ("running_mean", "running_var")]
    assert means == [[1.0, 2.0], [3.0, 4.0]]
