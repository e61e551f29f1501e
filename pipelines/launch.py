"""Runs the loop in the workers of a Ray Train TorchTrainer; the way from a command to a cluster."""

import logging
import os
from pathlib import Path
from typing import Any

from pipelines import tracking
from pipelines.journal import Event, Reader
from pipelines.runs import Run
from pipelines.settings import Launch

SETTINGS = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_LOG_LEVEL": "ERROR",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
"""Ray's own settings where we start it: silent beside the progress bar, and workers at a program's usual priority."""

PULSE = (
    ("running", "1 while a run trains, 0 once it has ended."),
    ("step", "Steps that a run has taken."),
    ("planned_steps", "Steps that a run takes unless it stops early."),
    ("loss", "Mean training loss of the last step that was read."),
    ("examples_per_second", "Training examples a second, over all workers."),
)
"""Gauges of a run, by task and run folder, and what each says."""


def start_ray(launch: Launch, dashboard: bool = False, cores: int = 0) -> str:
    """Joins the cluster that RAY_ADDRESS names, or starts one on this machine, if neither was done before.

    Raises ValueError when the cluster lacks the workers' processors or GPUs, which would make them wait for ever.
    A cluster started here gets room for the workers, and at least for `cores` (0: this machine's). Returns the
    dashboard's host and port, empty where there is none.
    """
    import ray

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    page = ""
    if not ray.is_initialized():
        where: dict[str, Any] = {}
        if not os.environ.get("RAY_ADDRESS"):
            cores = cores or os.cpu_count() or 1
            where = {"address": "local", "num_cpus": max(cores, launch.workers) + 1, "include_dashboard": dashboard}
        context = ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        page = context.dashboard_url or ""
    there = ray.cluster_resources()
    kind = "GPU" if launch.gpu else "CPU"
    if there.get(kind, 0) < launch.workers:
        raise ValueError(
            f"--workers is {launch.workers}{' --gpu' if launch.gpu else ''}, and the cluster has "
            f"{int(there.get(kind, 0))} {kind}s; ask for fewer workers{' or leave out --gpu' if launch.gpu else ''}"
        )
    tracking.check_reach(len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}))
    return page


def train(runs: list[Run], launch: Launch) -> None:
    """Trains the runs one after the other in one worker group, since starting one costs more than a small run.

    Raises ValueError with a worker's sentence when it refuses its data or diverges.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    words = [(run.word, str(run.folder)) for run in runs]
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "runs": words,
            "threads": launch.threads,
            "gpu": launch.gpu,
            "save": launch.checkpoint_steps,
            "keeping": (launch.keep, launch.storage, launch.resume_anyway),
        },
        scaling_config=ScalingConfig(num_workers=launch.workers, use_gpu=launch.gpu),
        run_config=RunConfig(name="ray", storage_path=str(runs[0].folder)),
    )
    try:
        trainer.fit()
    except Exception as problem:
        for run in runs:
            if (sentence := _refusal(run.folder)) is not None:
                raise ValueError(sentence) from problem
        raise


def _work(settings: dict[str, Any]) -> None:
    """Runs in each worker."""
    import ray.train

    from pipelines import loop, runs
    from pipelines.journal import Journal
    from pipelines.place import Place
    from pipelines.saving import Keeping

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = "cpu"
    if settings["gpu"]:
        from ray.train.torch import get_device

        device = str(get_device())
    threads = settings["threads"] or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
    place = Place(rank, world, device, threads)
    for _, folder in settings["runs"]:
        run = runs.reopen(Path(folder))
        journal, pulse = Journal(run.folder), Pulse(run)

        def emit(event: Event, journal: Journal = journal, pulse: Pulse = pulse) -> None:
            journal.append(event)
            pulse.beat(event)

        try:
            saving = {"checkpoint_steps": settings["save"], "keeping": Keeping(*settings["keeping"])}
            loop.run(run.task, run.config, run.folder, place, emit, **saving)
        except ValueError as problem:
            journal.append({"event": "error", "rank": rank, "sentence": str(problem)})
            raise
        finally:
            journal.close()
            pulse.stop()


class Pulse:
    """How far a run has come, as gauges on the metrics port of Ray that every node has (`ray_eagerly_training_...`).

    Ray takes a worker's gauges away when the worker is gone.
    """

    def __init__(self, run: Run) -> None:
        """Shows nothing before the first event, which rank 0 alone has."""
        from ray.util.metrics import Gauge

        self._labels = {"task": run.task.name, "run": run.folder.name}
        self._gauges = {name: Gauge(f"eagerly_training_{name}", text, tuple(self._labels)) for name, text in PULSE}
        self._begun = False

    def beat(self, event: Event) -> None:
        """Takes an event of the journal."""
        self._begun = True
        self._set("running", 1)
        if event["event"] == "start":
            self._set("step", event["step"])
            self._set("planned_steps", event["steps"])
        elif event["event"] == "steps":
            self._set("step", event["first"] + len(event["losses"]))
            self._set("loss", event["losses"][-1])
            self._set("examples_per_second", event["examples_per_second"])

    def stop(self) -> None:
        """Says that the run has ended, in whatever way."""
        if self._begun:
            self._set("running", 0)

    def _set(self, name: str, value: float) -> None:
        self._gauges[name].set(value, self._labels)


def _refusal(folder: Path) -> str | None:
    """Finds the sentence with which a worker gave up, if that was what happened."""
    for event in reversed(list(Reader(folder).new_events())):
        if event["event"] in ("error", "start"):
            return event.get("sentence")
    return None
