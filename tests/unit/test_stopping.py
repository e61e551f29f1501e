"""A run that is asked to stop writes a checkpoint between two steps, on all ranks alike, and goes on from there."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import training

from pipelines.stopping import Notice, Stopped

DEFAULT: dict[str, Any] = {"epochs": 3, "batch_size": 256}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> training.Outcome:
    return training.train(tmp_path_factory.mktemp("whole"), **DEFAULT)


@pytest.mark.parametrize("first", [6, 8, 11])
def test_a_run_ended_by_sigterm_goes_on_as_if_it_had_not_been(
    tmp_path: Path, whole: training.Outcome, first: int
) -> None:
    """At the first step of an epoch, within it, and at its last step."""
    events: list[dict[str, Any]] = []

    def hear(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "steps" and event["first"] + len(event["losses"]) >= first:
            os.kill(os.getpid(), signal.SIGTERM)

    with Notice() as notice, pytest.raises(Stopped) as stopped:
        training.train(tmp_path, ask=notice, hear=hear, checkpoint_steps=1, **DEFAULT)
    assert "SIGTERM came" in str(stopped.value)
    assert events[-1] == {"event": "stopped", "step": stopped.value.step, "reason": "SIGTERM came"}
    resumed = training.train(tmp_path, **DEFAULT)
    assert resumed.named("resume")[0]["step"] == stopped.value.step >= first
    assert resumed.losses == whole.losses[stopped.value.step :]
    assert resumed.named("state") == whole.named("state")


def test_sigterm_is_the_program_s_own_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Notice():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def stop_one(rank: int, folder: Path) -> tuple[int, str]:
    """Trains as one of the pair; the second alone is asked to stop, after the fifth window."""
    asked = [0]

    def ask() -> str:
        asked[0] += 1
        return "its node goes away" if rank == 1 and asked[0] > 5 else ""

    try:
        training.train_ranked(rank, folder, {"ask": ask, **DEFAULT, "checkpoint_steps": 1})
    except Stopped as stopped:
        return stopped.step, stopped.reason
    raise AssertionError("the run came to its end")


def test_one_rank_s_reason_stops_all_at_the_same_step(tmp_path: Path, pair: training.Pair) -> None:
    (step, reason), other = pair.run(stop_one, tmp_path / "parts")
    assert (reason, other) == ("another worker was asked to stop", (step, "its node goes away"))
    resumed = pair.run(training.train_ranked, tmp_path / "parts", DEFAULT)[0]
    uncut = pair.run(training.train_ranked, tmp_path / "whole", DEFAULT)[0]
    assert resumed.named("resume")[0]["step"] == step == 6
    assert resumed.named("state") == uncut.named("state")


def test_a_run_goes_on_with_fewer_workers_and_says_that_it_is_another_history(
    tmp_path: Path, pair: training.Pair
) -> None:
    pair.run(stop_one, tmp_path)
    resumed = training.train(tmp_path, **DEFAULT)
    assert resumed.named("resume") == [
        {"event": "resume", "step": 6, "problems": [], "inexact": ["was taken with world 2, now 1"]}
    ]
    assert len(resumed.losses) == 12
    assert all(torch.isfinite(value).all() for value in resumed.weights.values())
