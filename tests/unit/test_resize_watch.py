"""A group that Ray Train resizes writes a checkpoint first, and its new size follows the cluster as it is now."""

import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordination
from ray.exceptions import ActorDiedError, GetTimeoutError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller import state
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus
from ray.train.v2.api.exceptions import WorkerGroupError

from pipelines import notices, watch
from pipelines.journal import Event, Reader, note

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # ray's own settings
SMALLER = ResizeDecision(num_workers=2, resources_per_worker={"CPU": 1})
FAILED = WorkerGroupError("a worker died", {0: ActorDiedError()})
HEALTHY = WorkerGroupPollStatus({0: WorkerStatus(running=True)})
LOST = WorkerGroupPollStatus(
    {0: WorkerStatus(running=False, error=WorkerHealthCheckFailedError("no answer", ActorDiedError()))}
)
REQUESTER = "a run"


class Group:
    """A worker group of four, one of which trains, in a thread of this process."""

    def __init__(self, folder: Path, answers: bool = True) -> None:
        self.folder, self.answers = folder, answers
        self.asked: list[str] = []
        self.pool = futures.ThreadPoolExecutor(1)

    def get_workers(self) -> list[int]:
        return [0, 1, 2, 3]

    def execute(self, function: Callable[..., Any]) -> list[Any]:
        assert function is notices.listen
        return []

    def execute_async(self, function: Callable[..., Any], reason: str) -> list["futures.Future[Any]"]:
        self.asked.append(reason)
        if not self.answers:
            return [futures.Future()]
        threading.Timer(0.3, self._end).start()
        return [self.pool.submit(function, reason)]

    def _end(self) -> None:
        """Ends the training as the loop does when it was told to stop."""
        note(self.folder, {"event": "stopped", "reason": notices.pending()})
        notices.end()


class Cluster:
    """Two machines of two processors, one of which can go; asked through Ray's own coordinator."""

    def __init__(self) -> None:
        self.nodes = ["stays", "goes"]
        self.looks = 0
        self.answers = True
        self.coordinator: Any = coordination._AutoscalingCoordinatorActor(
            send_resources_request=lambda bundles, selectors=None: None, get_cluster_nodes=self._list
        )
        self.coordinator.request_resources(REQUESTER, [{"CPU": 1.0}] * 4, expire_after_s=600)
        self.looks = 0

    def _list(self) -> list[dict[str, Any]]:
        self.looks += 1
        return [{"NodeID": node, "Alive": True, "Resources": {"CPU": 2.0}, "Labels": {}} for node in self.nodes]

    @property
    def get_reserved_resources(self) -> "Cluster":
        return self

    def remote(self, *arguments: Any, **named: Any) -> Callable[[], Any]:
        return lambda: self.coordinator.get_reserved_resources(*arguments, **named)

    def get(self, call: Callable[[], Any], timeout: float) -> Any:
        if not self.answers:
            raise GetTimeoutError(f"no answer within {timeout} s")
        return call()

    @property
    def room(self) -> set[str]:
        """Names the machines that the run would be told of."""
        return set(self.coordinator.get_reserved_resources(REQUESTER))


@pytest.fixture(autouse=True)
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets Ray wait for what a `Group` does, which is told to stop for this test alone."""

    def wait(calls: list[Any], num_returns: int, timeout: float) -> None:
        assert num_returns == len(calls)
        futures.wait(calls, timeout=timeout)

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(notices, "_NOTICE", notices._Notice())
    notices.begin()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    there = Cluster()
    monkeypatch.setattr(coordination, "get_or_create_autoscaling_coordinator", lambda: there)
    monkeypatch.setattr(ray, "get", there.get)
    return there


def watching(folder: Path, group: Group | None = None, elastic: bool = False) -> watch.Watch:
    guard = watch.Watch({str(folder): 0}, 3, 0, elastic)
    if group is not None:
        guard.after_worker_group_start(group)
    return guard


def told(folder: Path) -> list[Event]:
    return [{name: value for name, value in e.items() if name != "time"} for e in Reader(folder).new_events()]


def test_every_hook_is_one_of_rays() -> None:
    """Else a release of Ray that renames one would silently never call it."""
    known = {*vars(WorkerGroupCallback), *vars(ControllerCallback)}
    assert [name for name in vars(watch.Watch) if not name.startswith("_") and name not in known] == []


def test_a_healthy_group_ends_its_training_before_it_is_resized(tmp_path: Path) -> None:
    group = Group(tmp_path)
    watching(tmp_path, group).before_controller_execute_resize_decision(SMALLER)
    reason = "resized from 4 to 2 workers"
    assert group.asked == [reason]
    assert told(tmp_path) == [
        {"event": "stopped", "reason": reason},
        {"event": "restart", "cause": "resize", "reason": reason, "count": 0},
    ]


def test_a_group_that_does_not_answer_is_resized_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "WAIT_SECONDS", 0.0)
    watching(tmp_path, Group(tmp_path, answers=False)).before_controller_execute_resize_decision(SMALLER)
    assert [event["event"] for event in told(tmp_path)] == ["restart"]


def test_a_group_that_failed_is_told_nothing_more_and_its_successor_is(tmp_path: Path) -> None:
    failed, successor = Group(tmp_path), Group(tmp_path)
    guard = watching(tmp_path, failed)
    guard.after_worker_group_poll_status(LOST)
    guard.before_controller_execute_resize_decision(SMALLER)
    assert failed.asked == [] and [event["cause"] for event in told(tmp_path)] == ["loss"]
    guard.after_worker_group_shutdown(None)
    guard.after_worker_group_start(successor)
    guard.before_controller_execute_resize_decision(SMALLER)
    assert len(successor.asked) == 1 and [event.get("cause") for event in told(tmp_path)] == ["loss", None, "resize"]


def test_the_first_group_and_one_that_is_gone_restart_nothing(tmp_path: Path) -> None:
    gone = Group(tmp_path)
    guard = watching(tmp_path)
    guard.before_controller_execute_resize_decision(SMALLER)
    guard.after_worker_group_start(gone)
    guard.after_worker_group_shutdown(None)
    guard.before_controller_execute_resize_decision(SMALLER)
    assert gone.asked == [] and told(tmp_path) == []


def test_an_interrupted_group_ends_its_training_first(tmp_path: Path) -> None:
    watching(tmp_path, Group(tmp_path)).before_controller_abort()
    assert told(tmp_path) == [{"event": "stopped", "reason": "the run was interrupted"}]


@pytest.mark.parametrize(
    "begins", [state.RestartingState(FAILED), state.ReschedulingState(FAILED), state.ResizingState(SMALLER)]
)
def test_a_new_group_is_not_given_the_room_of_a_machine_that_is_gone(
    tmp_path: Path, cluster: Cluster, begins: state.TrainControllerState
) -> None:
    guard = watching(tmp_path, elastic=True)
    cluster.nodes.remove("goes")
    assert cluster.room == {"stays", "goes"}
    guard.after_controller_state_update(state.RunningState(), begins)
    assert cluster.room == {"stays"}


def test_the_cluster_is_not_looked_at_while_nothing_is_started_again(tmp_path: Path, cluster: Cluster) -> None:
    guard = watching(tmp_path, elastic=True)
    for follows in (state.RunningState(), state.SchedulingState(SMALLER), state.FinishedState()):
        guard.after_controller_state_update(state.InitializingState(), follows)
    assert cluster.looks == 0


def test_a_group_that_trains_has_the_cluster_looked_at_now_and_then(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = watching(tmp_path, Group(tmp_path), elastic=True)
    cluster.nodes.append("comes")
    for _ in range(3):
        guard.after_worker_group_poll_status(HEALTHY)
    assert cluster.looks == 1
    monkeypatch.setattr(watch, "FRESH_SECONDS", 0.0)
    guard.after_worker_group_poll_status(HEALTHY)
    assert cluster.looks == 2


def test_a_run_of_a_fixed_size_never_looks(tmp_path: Path, cluster: Cluster) -> None:
    guard = watching(tmp_path, Group(tmp_path))
    guard.after_worker_group_poll_status(HEALTHY)
    guard.after_controller_state_update(state.RunningState(), state.RestartingState(FAILED))
    assert cluster.looks == 0


def test_a_cluster_that_does_not_say_what_is_free_ends_no_run(tmp_path: Path, cluster: Cluster) -> None:
    guard = watching(tmp_path, Group(tmp_path), elastic=True)
    cluster.answers = False
    guard.after_worker_group_poll_status(HEALTHY)
    guard.after_controller_state_update(state.RunningState(), state.RestartingState(FAILED))
    cluster.answers = True
    cluster.nodes.remove("goes")
    guard.after_controller_state_update(state.RunningState(), state.RestartingState(FAILED))
    assert cluster.room == {"stays"}
