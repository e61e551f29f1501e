"""What the controller of Ray Train does for a run besides Ray's own: budgets, a journal, checkpoints before resizing.

Ray keeps one budget for everything that fails in workers. Here a lost worker and an error of the training code have
one each. A preemption has none, and a lack of memory neither, since each start after one cuts batches finer, down to a
single example: Ray is told to retry without end, and whatever is over its budget is raised, which ends the run.
"""

import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import ReschedulingState, ResizingState, RestartingState
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy

from pipelines import notices
from pipelines.capacity import counted
from pipelines.journal import Event, Reader, has_ended, note
from pipelines.memory import Exhausted
from pipelines.stopping import Stopped

PEER_SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")
"""Words of the errors with which a collective ends when another rank is gone."""
FRESH_SECONDS = 5.0


class Staying(ElasticScalingPolicy):
    """Ray's way to choose the number of workers, but for nodes that are about to leave: it would wait for their end."""

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        gone = leaving()
        return super()._count_possible_workers(
            {node: room for node, room in reserved_resources.items() if node not in gone}
        )


def leaving() -> set[str]:
    """Names the nodes that Ray was told will be taken away."""
    from ray._private import state

    known: Any = state
    return set(known.state.get_draining_nodes() or {})


class Watch(WorkerGroupCallback, ControllerCallback):
    """Follows a worker group in the controller's process."""

    def __init__(self, runs: dict[str, int], max_failures: int, max_errors: int, elastic: bool) -> None:
        """Takes the runs as `tell` does; a budget of -1 has no limit, and pays for what earlier controllers met too."""
        self._runs = runs
        self._limits = {"loss": max_failures, "error": max_errors, "preemption": -1, "memory": -1}
        self._counts = spent(runs)
        self._elastic = elastic
        self._group: Any = None
        self._failed = False
        self._fresh = 0.0

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Makes the workers take SIGTERM as a notice."""
        super().after_worker_group_start(worker_group)
        worker_group.execute(notices.listen)
        self._group, self._failed = worker_group, False

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        """Forgets the group."""
        self._group = None

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Counts what failed. Raises GivenUp, or the worker's own error, when that was once too often."""
        if self._elastic and time.monotonic() - self._fresh > FRESH_SECONDS:
            self._freshen()
        if not worker_group_status.errors or self._failed:
            return
        self._failed = True
        kind, problem = judge(worker_group_status.errors)
        self._counts[kind] += 1
        count, limit = self._counts[kind], self._limits[kind]
        reason = _words(problem)
        over = 0 <= limit < count
        tell(self._runs, {"event": "lost" if over else "restart", "cause": kind, "reason": reason, "count": count})
        if not over:
            return
        if kind == "error":
            raise problem
        raise notices.GivenUp(given_up(count, limit, reason))

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Lets a healthy group write a checkpoint before Ray ends it to start another of another size."""
        if self._group is None or self._failed:
            return
        then, now = len(self._group.get_workers()), resize_decision.num_workers
        reason = f"resized from {then} to {counted(now, 'worker')}"
        self._stop(reason)
        tell(self._runs, {"event": "restart", "cause": "resize", "reason": reason, "count": 0})

    def before_controller_abort(self) -> None:
        """Lets the group write a last checkpoint when the run is interrupted."""
        if self._group is not None and not self._failed:
            self._stop("the run was interrupted")

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Looks at the cluster as it is now when a group is to be started again."""
        if self._elastic and isinstance(current_state, RestartingState | ReschedulingState | ResizingState):
            self._freshen()

    def _stop(self, reason: str) -> None:
        calls = self._group.execute_async(notices.stop, reason)
        ray.wait(calls, num_returns=len(calls), timeout=notices.WAIT_SECONDS + 1)

    def _freshen(self) -> None:
        """Makes Ray's view of free resources current: it looks only every 20 s, and would wait for a lost node.

        Where Ray does not answer, its view stays as it is: an error here would end the run.
        """
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        self._fresh = time.monotonic()
        with contextlib.suppress(RayError):
            coordinator: Any = get_or_create_autoscaling_coordinator()
            ray.get(coordinator.get_reserved_resources.remote("", recompute=True), timeout=FRESH_SECONDS)


def tell(runs: dict[str, int], event: Event) -> None:
    """Writes an event into the journal of the run that a group is at, the first that has not ended; else nowhere.

    Runs are the folders in the order of training, each with its journal's size in bytes at the start.
    """
    for folder, since in runs.items():
        if not has_ended(Path(folder), since):
            note(Path(folder), event)
            return


def spent(runs: dict[str, int]) -> Counter[str]:
    """Counts by cause how often the runs, given as for `tell`, were started again since then."""
    events = (event for folder, since in runs.items() for event in Reader(Path(folder), offset=since).new_events())
    return Counter(event["cause"] for event in events if event["event"] == "restart")


def given_up(count: int, limit: int, reason: str) -> str:
    """Says that workers or the controller were lost once too often, the last time for `reason`."""
    return f"workers were lost {counted(count, 'time')} and --max-failures is {limit}; at last, {reason}"


def judge(errors: dict[int, Exception]) -> tuple[str, Exception]:
    """Names what ended a worker group, by each rank's error: a kind that has a budget, and the error to blame.

    A rank that failed because another was gone is not to blame. A worker that died outweighs another's error, since
    an error of the code comes again, and is then counted as one.
    """
    kinds = {rank: _kind(error) for rank, error in errors.items()}
    for kind in ("preemption", "loss", "memory", "error", "peer"):
        for rank, found in kinds.items():
            if found == kind:
                return ("loss" if kind == "peer" else kind), errors[rank]
    raise AssertionError("no error to judge")


def _kind(error: Exception) -> str:
    if isinstance(error, Stopped):
        return "preemption"
    if isinstance(error, Exhausted):
        return "memory"
    if isinstance(error, WorkerHealthCheckTimeoutError):
        return "loss"
    if isinstance(error, WorkerHealthCheckFailedError):
        inner = error.health_check_failure
        return "preemption" if isinstance(inner, RayActorError) and inner.preempted else "loss"
    text = f"{type(error).__name__} {error}".lower()
    if isinstance(error, RuntimeError) and any(sign in text for sign in PEER_SIGNS):
        return "peer"
    return "error"


def _words(error: Exception) -> str:
    """Puts what happened into one line."""
    if isinstance(error, WorkerHealthCheckFailedError):
        return "a worker died"
    if _kind(error) == "peer":
        return "the connection to another worker broke"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first if isinstance(error, ValueError | Stopped | Exhausted) else f"{type(error).__name__}: {first}"
