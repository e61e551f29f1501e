"""Runs and metrics in MLflow, replayed from a run's journal."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from pipelines.journal import Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Metric

LIMIT = 1000
"""Most metrics that MLflow takes in one call."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages show an experiment as training rather than as an application of language models."""
ONE_MACHINE = ("sqlite", "file", "")
"""Schemes of tracking stores that only processes of one machine can share."""


def uri() -> str:
    """Names the tracking store: MLFLOW_TRACKING_URI, or mlflow.db in the working folder, MLflow's own default."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def check_reach(machine_count: int) -> None:
    """Raises ValueError when runs of several machines are to be logged to a store that only one can open."""
    if machine_count > 1 and urlparse(uri()).scheme in ONE_MACHINE:
        raise ValueError(
            f"the workers run on {machine_count} machines, and the tracking store {uri()!r} is a file of one; "
            "start `mlflow server` where all reach it and set MLFLOW_TRACKING_URI to its http address"
        )


class Tracker:
    """One MLflow run, whatever the number of ranks and restarts."""

    def __init__(self, experiment: str, run_name: str, run_id: str = "") -> None:
        """Starts a run, or goes on with the one that has `run_id`."""
        import mlflow

        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        mlflow.set_tracking_uri(uri())
        self._client = mlflow.MlflowClient()
        if run_id:
            self._run = self._client.get_run(run_id)
            self._client.update_run(run_id, status="RUNNING")
        else:
            found = self._client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else self._client.create_experiment(experiment, tags=KIND)
            self._run = self._client.create_run(experiment_id, run_name=run_name)
        self.run_id: str = self._run.info.run_id
        self.experiment_id: str = self._run.info.experiment_id
        self._next_step, self._next_epoch = 0, 0
        self._monitor = self._start_monitor()

    def _start_monitor(self) -> Any:
        """Samples this machine's load and memory in a thread of MLflow's."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.run_id, sampling_interval=2, samples_before_logging=1)
        monitor.start()
        return monitor

    def describe(self, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Logs the settings once and what else identifies the run."""
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(self.run_id).data.params
        new = [Param(key, str(value)) for key, value in parameters.items() if key not in known]
        self._client.log_batch(self.run_id, params=new, tags=[RunTag(key, value) for key, value in tags.items()])

    def describe_data(self, name: str, digest: str) -> None:
        """Logs what the run learns from as a dataset of MLflow's, which keeps 36 characters of a digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest[:36], source_type="local", source=json.dumps({"uri": name}))
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def log(self, events: list[Event]) -> None:
        """Logs the metrics of journal events; steps and epochs that a resumed run took again are logged once."""
        metrics = [metric for event in events for metric in self._metrics(event)]
        for start in range(0, len(metrics), LIMIT):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + LIMIT])

    def _metrics(self, event: Event) -> "Iterator[Metric]":
        from mlflow.entities import Metric

        stamp = int(event["time"] * 1000)
        if event["event"] == "steps":
            for step, loss in enumerate(event["losses"], start=event["first"]):
                if step >= self._next_step:
                    yield Metric("train/loss", loss, stamp, step)
                    self._next_step = step + 1
            yield Metric("train/lr", event["lr"], stamp, self._next_step - 1)
            yield Metric("train/examples_per_second", event["examples_per_second"], stamp, self._next_step - 1)
        elif event["event"] == "epoch" and event["epoch"] >= self._next_epoch:
            self._next_epoch = event["epoch"] + 1
            for name, value in event["metrics"].items():
                yield Metric(f"valid/{name}", value, stamp, event["step"])
        elif event["event"] == "test":
            for name, value in event["metrics"].items():
                yield Metric(f"test/{name}", value, stamp, self._next_step)

    def finish(self, figures: "Mapping[str, Figure]", artifact: Path) -> str:
        """Logs plots as images and the model artifact, ends the run, and returns where the artifact lies."""
        for name, figure in figures.items():
            self._client.log_figure(self.run_id, figure, f"plots/{name}.png")
        self._client.log_artifacts(self.run_id, str(artifact), "model")
        self.end("FINISHED")
        return f"{self._run.info.artifact_uri}/model"

    def end(self, status: str) -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""
        self._monitor.publish_metrics(self._monitor.aggregate_metrics())  # a short run's only sample
        self._monitor.finish()
        self._client.set_terminated(self.run_id, status)


def git_commit(folder: Path) -> str:
    """Names the commit that a folder is checked out at, with `-dirty` when files differ; empty outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
