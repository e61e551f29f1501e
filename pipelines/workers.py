"""What runs in each worker of a Ray Train group: the loop, its journal and its gauges."""

import os
import time
from pathlib import Path
from typing import Any

from pipelines.journal import Event, Reader
from pipelines.runs import Run

PULSE = (
    ("running", "1 while a run trains, 0 once it has ended."),
    ("step", "Steps that a run has taken."),
    ("planned_steps", "Steps that a run takes unless it stops early."),
    ("loss", "Mean training loss of the last step that was read."),
    ("examples_per_second", "Training examples a second, over all workers."),
    ("restarts", "Times that the run was started again, after a loss, an error or a change of size."),
    (
        "checkpoint_timestamp_seconds",
        "When the newest checkpoint was written, or before the first, when the worker began: later work can be lost.",
    ),
)
"""Gauges of a run, by task and run folder, and what each says."""


def work(settings: dict[str, Any]) -> None:
    """Trains the runs in turn, each from its newest checkpoint; a run that this launch has finished is not repeated."""
    from pipelines import notices, runs, uploads
    from pipelines.journal import has_ended

    place = _place(settings)
    for folder, since in settings["runs"].items():
        run = uploads.localize(runs.reopen(Path(folder)))
        if has_ended(run.folder, since):
            continue
        notices.begin()
        try:
            _train(run, place, settings)
        finally:
            notices.end()


def _place(settings: dict[str, Any]) -> Any:
    import ray.train

    from pipelines.place import Place

    context = ray.train.get_context()
    device = "cpu"
    if settings["gpu"]:
        from ray.train.torch import get_device

        device = str(get_device())
    threads = settings["threads"] or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
    return Place(context.get_world_rank(), context.get_world_size(), device, threads)


def _train(run: Run, place: Any, settings: dict[str, Any]) -> None:
    from pipelines import journaling, ledger, loop, notices
    from pipelines.saving import Keeping

    pulse = Pulse(run)
    try:
        with journaling.opened(run.folder) as journal, journaling.noted(journal, place.rank):

            def emit(event: Event) -> None:
                journal.append(event)
                pulse.beat(event)

            if place.rank == 0:
                journal.append({"event": "workers", "count": place.world, "threads": place.threads})
            data, keeping = ledger.kept(run, place), Keeping(*settings["keeping"])
            saving: dict[str, Any] = {"checkpoint_steps": settings["save"], "keeping": keeping}
            loop.run(run.task, run.config, run.folder, place, emit, data, stop=notices.pending, **saving)
    finally:
        pulse.stop()


class Pulse:
    """How far a run has come, as gauges on the metrics port of Ray that every node has (`ray_eagerly_training_...`).

    Ray takes a worker's gauges away when the worker is gone.
    """

    def __init__(self, run: Run) -> None:
        """Shows nothing before the first event, which rank 0 alone has."""
        from ray.util.metrics import Gauge

        self._folder = run.folder
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
            self._set("restarts", sum(one["event"] == "restart" for one in Reader(self._folder).new_events()))
            self._set("checkpoint_timestamp_seconds", time.time())
        elif event["event"] == "checkpoint" and not event.get("problem"):
            self._set("checkpoint_timestamp_seconds", time.time())
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
