"""Rates are functions of the counter of steps alone: those that were keep their numbers, the new have their shape."""

import math

import pytest

from pipelines.schedules import rate
from pipelines.settings import Settings


def test_the_schedules_that_were_keep_their_numbers() -> None:
    assert [rate("constant", step, 8) for step in (0, 7)] == [1.0, 1.0]
    assert [rate("onecycle", step, 8) for step in (0, 1, 2)] == [0.04, 0.04 + 0.96 / 2, 1.0]
    assert rate("onecycle", 5, 8) == 0.5 * (1 + math.cos(math.pi * 3 / 6))
    assert [rate("cosine", step, 8) for step in (0, 4)] == [1.0, pytest.approx(0.5)]


def test_wsd_rises_stays_and_falls_as_one_minus_a_root() -> None:
    rates = [rate("wsd", step, 100, 0.1, 0.4) for step in range(100)]
    assert rates[0] == 0.04
    assert rates[5] == pytest.approx(0.52)
    assert rates[10:61] == [1.0] * 51
    assert rates[70] == pytest.approx(0.5)  # a quarter of the fall has passed
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert 0 < rates[99] < 0.02


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle", "wsd"])
def test_any_schedule_warms_up_when_told(schedule: str) -> None:
    rates = [rate(schedule, step, 50, 0.5) for step in range(50)]
    assert rates[0] == 0.04
    assert rates[:26] == sorted(rates[:26])
    assert rates[25] == 1.0
    assert all(0 < value <= 1 for value in rates)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"warm_up": 1.0}, "--warm-up is 1.0; it must be at least 0 and below 1, or -1 for the schedule's own"),
        ({"warm_up": 0.5, "cool_down": 0.6}, "--cool-down is 0.6; with --warm-up it must be 0 to 1"),
        ({"ema": 1.0}, "--ema is 1.0; it must be at least 0 and below 1"),
        ({"micro_batch": -1}, "--micro-batch is -1; it must be auto, 0 or more"),
        ({"micro_batch": 8, "accumulate": 2}, "--micro-batch and --accumulate 2 both say how a batch is split"),
        ({"shard": True, "compile": "yes"}, "--shard does not go with --compile yes; leave one of them out"),
        ({"shard": True, "micro_batch": "auto"}, "--shard does not go with --micro-batch auto"),
        ({"recompute": True, "compile": "auto"}, "--recompute does not go with --compile auto"),
    ],
)
def test_a_setting_of_speed_out_of_range_is_a_sentence(values: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        Settings(**values)


def test_the_settings_of_earlier_runs_mean_what_they_meant() -> None:
    old: dict = {"amp": True, "compile": False}
    assert Settings(**old) == Settings(amp="bf16", compile="no")
