"""Runs the loop in the workers of a Ray Train TorchTrainer; the way from a command to a cluster."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines import journal, journaling, tracking
from pipelines.runs import Run
from pipelines.settings import Launch
from pipelines.stopping import Stopped

SETTINGS = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_LOG_LEVEL": "ERROR",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
}
"""Ray's own settings where we start it: silent beside the progress bar, soon aware of what is lost, workers at a
program's usual priority, and none that are started before it is known what for, one for each processor."""
SHORT_WAIT_SECONDS = "8"
"""How long an elastic run waits for the room that Ray counted on, before it counts again."""
ANSWER_SECONDS = 5.0
"""How long the cluster at RAY_ADDRESS may take to accept a connection."""
TRIES = "RAY_gcs_server_port_wait_time_s"
"""How often Ray asks, for most of a minute each time, whether what accepts connections is a cluster: 20 times."""


def keep_private() -> None:
    """Has the Ray that this process starts next be for its user alone: on loopback, and with a token."""
    from ray._private import ray_constants

    from pipelines import cluster

    variables, _ = cluster.private(os.environ)
    os.environ.update(variables)
    constants: Any = ray_constants  # which has read the environment before
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(cluster.LOOPBACK, False)


def start_ray(
    launch: Launch, dashboard: bool = False, cores: int = 0, say: Callable[[str], None] = lambda sentence: None
) -> str:
    """Joins the cluster that RAY_ADDRESS names, or starts one on this machine, if neither was done before.

    Raises ValueError when no cluster answers there, or it lacks the workers' processors or GPUs, unless the launch
    waits for them; then `say` gets what it waits for. A submitted job looks for room in its turn (turns.py), for which
    it waits anyway. A cluster started here gets room for the workers, and at least for `cores` (0: this machine's).
    Returns the dashboard's host and port, empty where there is none.
    """
    import ray

    from pipelines import capacity, turns

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    page, grows = "", True
    if not ray.is_initialized():
        where: dict[str, Any] = {}
        if not os.environ.get("RAY_ADDRESS"):
            keep_private()
            cores, grows = cores or os.cpu_count() or 1, False
            where = {"address": "local", "num_cpus": max(cores, launch.most) + 1, "include_dashboard": dashboard}
        page = join(where).dashboard_url or ""
    if not turns.is_queued():
        capacity.find(launch, grows, say)
    tracking.check_reach(len(capacity.machines()))
    return page


def join(where: dict[str, Any], deed: str = "train") -> Any:
    """Starts a cluster, or joins the one at RAY_ADDRESS, to do a deed. Raises ValueError when none answers there."""
    import ray

    address = "" if where else os.environ["RAY_ADDRESS"]
    try:
        if address:
            _knock(address)
            os.environ.setdefault(TRIES, "1")
        return ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except OSError as problem:
        if not address:
            raise
        ways = f"name one that runs, or unset RAY_ADDRESS to {deed} on this machine alone"
        raise ValueError(f"no cluster answers at RAY_ADDRESS={address} ({problem}); {ways}") from problem


def _knock(address: str) -> None:
    """Raises OSError, sooner than Ray does, when nothing listens at a host and port."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()


@contextmanager
def ended_with(broken_off: Callable[[], None]) -> Iterator[None]:
    """Ends the Ray that a block started, seconds before Python would, when the block is stopped or interrupted.

    `broken_off` is called before, so that what it begins goes on meanwhile.
    """
    import ray

    before = ray.is_initialized()
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        broken_off()
        if not before:
            ray.shutdown()
        raise


def train(runs: list[Run], launch: Launch) -> None:
    """Trains the runs one after the other in one worker group, since starting one costs more than a small run.

    A lost worker ends the group, and the next one goes on from the newest checkpoint, as often as `launch` allows.
    Raises ValueError with a worker's sentence when it refuses its data or diverges, notices.GivenUp when workers were
    lost too often, and Stopped after SIGTERM or Ctrl-C, KeyboardInterrupt if there was no time for a checkpoint.
    """
    from ray.exceptions import RayActorError

    from pipelines import capacity, notices, watch

    capacity.check_folders([run.folder for run in runs], launch)
    for run in runs:
        capacity.check_inputs(run.task, run.config, launch)
    since = {str(run.folder): journal.size(run.folder) for run in runs}
    while True:
        try:
            with _interrupted_by_sigterm():
                return _fit(runs, launch, since)
        except RayActorError as problem:
            lost = watch.spent(since)["loss"] + 1
            if 0 <= launch.max_failures < lost:
                sentence = watch.given_up(lost, launch.max_failures, "Ray's controller died")
                raise notices.GivenUp(sentence) from problem
            watch.tell(since, {"event": "restart", "cause": "loss", "reason": "Ray's controller died", "count": lost})
            logging.getLogger(__name__).debug("the controller died", exc_info=problem)


def _fit(runs: list[Run], launch: Launch, since: dict[str, int]) -> None:
    """Runs one controller of Ray Train to its end."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from pipelines.watch import Staying, Watch
    from pipelines.workers import work

    elastic = launch.fewest < launch.most
    if elastic:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", SHORT_WAIT_SECONDS)
    settings = {
        "runs": since,
        "threads": launch.threads,
        "gpu": launch.gpu,
        "save": launch.checkpoint_steps,
        "keeping": (launch.keep, launch.storage, launch.resume_anyway),
    }
    scaling = ScalingConfig(
        num_workers=(launch.fewest, launch.most) if elastic else launch.most,
        use_gpu=launch.gpu,
        elastic_resize_monitor_interval_s=launch.resize_seconds,
    )
    # Ray names one of its kinds of callback, takes all
    watch: Any = Watch(since, launch.max_failures, launch.max_errors, elastic)
    endless = FailureConfig(max_failures=-1)
    config = RunConfig(name="ray", storage_path=str(runs[0].folder), failure_config=endless, callbacks=[watch])
    trainer = TorchTrainer(work, train_loop_config=settings, scaling_config=scaling, run_config=config)
    if elastic:
        begin: Any = trainer._initialize_and_run_controller
        trainer._initialize_and_run_controller = lambda **parts: begin(**parts | {"scaling_policy": Staying(scaling)})
    try:
        trainer.fit()
    except (SystemExit, KeyboardInterrupt) as ended:  # Ray's own answer to an interrupt, which let the workers save
        raise _stopped(since) or KeyboardInterrupt from ended
    except TrainingFailedError as problem:
        raise _failure(problem, since) from problem


def _failure(problem: Any, since: dict[str, int]) -> Exception:
    """Says what ended a training: a run's own sentence, or what Ray's controller met."""
    for folder, start in since.items():
        if (sentence := _refusal(Path(folder), start)) is not None:
            return ValueError(sentence)
    failure = getattr(problem, "controller_failure", problem)
    if isinstance(failure, OSError) and failure.errno in journaling.FULL:
        return ValueError(journaling.full(Path(next(iter(since))), failure))
    return failure


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM end the run as Ctrl-C does, which lets the workers write a last checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stopped(runs: dict[str, int]) -> Stopped | None:
    """Finds after which step the workers stopped, if they had the time to."""
    readers = [journal.Reader(Path(folder), offset=since) for folder, since in runs.items()]
    events = [event for reader in readers for event in reader.new_events()]
    told = [event for event in events if event["event"] in ("stopped", "start", "test")][-1:]
    return Stopped(told[0]["reason"], told[0]["step"]) if told and told[0]["event"] == "stopped" else None


def _refusal(folder: Path, since: int) -> str | None:
    """Finds the sentence with which a worker gave up, if that was what happened."""
    for event in reversed(list(journal.Reader(folder, offset=since).new_events())):
        if event["event"] in ("error", "start"):
            return event.get("sentence")
    return None
