"""Ray's controller may die as a worker may: the run goes on under another one, as often as the launch allows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus
from ray.train.v2.api.exceptions import ControllerError
from training import PARITY

from pipelines import capacity, launch, notices, runs, tasks
from pipelines.journal import Event, Reader
from pipelines.settings import Launch

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # ray's own settings
Outcome = Callable[[Any], None]
"""What becomes of one controller, which is given the run's `watch.Watch`."""


def dies(guard: Any) -> None:
    """Raises what Ray does when the controller's process is gone."""
    raise ActorDiedError


def ends(guard: Any) -> None:
    """Comes to the end of the training."""


def loses_a_worker(guard: Any) -> None:
    """Raises what Ray does when the watch refuses to go on."""
    lost = WorkerStatus(running=False, error=WorkerHealthCheckFailedError("no answer", ActorDiedError()))
    try:
        guard.after_worker_group_poll_status(WorkerGroupPollStatus({0: lost}))
    except notices.GivenUp as problem:
        raise ControllerError(problem) from problem


def loses_a_worker_and_dies(guard: Any) -> None:
    """Bears a loss, and is gone afterwards."""
    loses_a_worker(guard)
    dies(guard)


def train(folder: Path, max_failures: int, *outcomes: Outcome) -> None:
    """Trains under one controller after the other, all of which must be asked for; there is no cluster."""
    left, how, task = list(outcomes), Launch(max_failures=max_failures), tasks.find(PARITY)
    run = runs.create(PARITY, task, task.config.Config(), how, folder)

    def fit(trainer: Any) -> None:
        (guard,) = trainer.run_config.callbacks
        left.pop(0)(guard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "check_folders", lambda folders, launch: None)
        patch.setattr(capacity, "check_inputs", lambda task, config, launch: None)
        patch.setattr(TorchTrainer, "fit", fit)
        try:
            launch.train([run], how)
        finally:
            assert left == []


def restarts(folder: Path) -> list[Event]:
    return [event for event in Reader(folder).new_events() if event["event"] == "restart"]


def test_a_controller_that_dies_within_the_budget_is_followed_by_another_and_the_journal_says_so(
    tmp_path: Path,
) -> None:
    train(tmp_path, 2, dies, dies, ends)
    told = [(event["cause"], event["reason"], event["count"]) for event in restarts(tmp_path)]
    assert told == [("loss", "Ray's controller died", 1), ("loss", "Ray's controller died", 2)]


def test_one_death_too_many_gives_up_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(notices.GivenUp, match=r"lost 2 times and --max-failures is 1; at last, Ray's") as given_up:
        train(tmp_path, 1, dies, dies)
    assert isinstance(given_up.value.__cause__, ActorDiedError)
    assert len(restarts(tmp_path)) == 1


def test_no_death_is_borne_where_none_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(notices.GivenUp, match=r"lost 1 time and --max-failures is 0; at last, Ray's controller died$"):
        train(tmp_path, 0, dies)
    assert restarts(tmp_path) == []


def test_without_a_limit_every_death_is_borne(tmp_path: Path) -> None:
    train(tmp_path, -1, *[dies] * 5, loses_a_worker)
    assert len(restarts(tmp_path)) == 6


def test_what_died_controllers_cost_is_not_there_for_workers(tmp_path: Path) -> None:
    train(tmp_path / "left", 2, dies, loses_a_worker)
    with pytest.raises(notices.GivenUp, match=r"^workers were lost 2 times and --max-failures is 1; .*a worker died$"):
        train(tmp_path / "spent", 1, dies, loses_a_worker)


def test_what_workers_cost_before_a_controller_died_is_not_there_again(tmp_path: Path) -> None:
    train(tmp_path / "left", 2, loses_a_worker_and_dies, ends)
    with pytest.raises(notices.GivenUp, match=r"^workers were lost 2 times and --max-failures is 1; at last, Ray's"):
        train(tmp_path / "spent", 1, loses_a_worker_and_dies)
