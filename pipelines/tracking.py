"""Runs and metrics in MLflow, replayed from a run's journal so that nothing is missing and nothing doubled."""

import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from pipelines import outages
from pipelines.points import LONGEST, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT = 1000
"""Most metrics that MLflow takes in one call."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages show an experiment as training rather than as an application of language models."""
KEY = "eagerly.run_key"
"""Tag of an MLflow run: which run folder it is of, so that a restart finds it whatever it remembers."""
CHANGED = "eagerly.changed"
"""Tag of an MLflow run: the settings that are others now, since MLflow keeps the first value of a parameter."""
PARENT = "mlflow.parentRunId"
ONE_MACHINE = ("sqlite", "file", "")
"""Schemes of tracking stores that only processes of one machine can share."""
CLIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""MLflow's own retries are off where a recorder retries, which it can do without sending a point twice."""
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
"""MLflow's patience, in tries after the first and in seconds, where a person waits for the answer."""


def uri() -> str:
    """Names the tracking store: MLFLOW_TRACKING_URI, or mlflow.db in the working folder, MLflow's own default."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def exists() -> bool:
    """Says whether the store can hold anything: a database that is a file must be there, and asking would make it."""
    start, _, path = uri().partition("///")
    return start != "sqlite:" or ":memory:" in path or Path(path.partition("?")[0]).exists()


def check_reach(machine_count: int) -> None:
    """Raises ValueError when runs of several machines are to be logged to a store that only one can open."""
    if machine_count > 1 and urlparse(uri()).scheme in ONE_MACHINE:
        raise ValueError(
            f"the workers run on {machine_count} machines, and the tracking store {uri()!r} is a file of one; "
            "start `mlflow server` where all reach it and set MLFLOW_TRACKING_URI to its http address"
        )


def explain(problem: Exception) -> tuple[str, bool]:
    """Puts what MLflow raised in a sentence, and says whether it may pass by itself, as an outage does."""
    where = public(uri())
    said = " ".join(str(problem).replace(uri(), where).split())[:160]
    if isinstance(problem, outages.MISTAKES):
        return said or type(problem).__name__, False
    status = outages.status(problem)
    if status in (401, 403):
        ways = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return f"MLflow at {where} refuses the credentials (status {status}); set {ways}", False
    if outages.is_refusal(status):
        return f"MLflow at {where} refuses: {said}", False
    return f"MLflow at {where} does not answer ({type(problem).__name__}: {said})", True


@contextlib.contextmanager
def asked() -> Iterator[None]:
    """Asks the store for a person: what it raises becomes a ValueError with a sentence, after seconds."""
    for name, value in IMPATIENT.items():
        os.environ.setdefault(name, value)
    try:
        yield
    except Exception as problem:
        if type(problem).__module__.partition(".")[0] not in outages.RAISERS:
            raise
        raise ValueError(explain(problem)[0]) from problem


def public(address: str) -> str:
    """Names a tracking store without the user and password that its address may hold."""
    parts = urlparse(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else address


def prepare() -> None:
    """Imports MLflow, which two threads that do it at once would break."""
    import mlflow
    from mlflow.system_metrics import system_metrics_monitor

    assert mlflow and system_metrics_monitor


def greet() -> None:
    """Asks a server for anything at all, so that one that is away or refuses is known of at once."""
    import mlflow

    for name, value in CLIENT.items():
        os.environ.setdefault(name, value)
    if urlparse(uri()).scheme not in ONE_MACHINE:
        mlflow.MlflowClient(uri()).search_experiments(max_results=1)


def find_experiment(client: Any, name: str) -> str:
    """Finds an experiment by its name, or makes it; returns its id."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(name, tags=KIND)
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another run made it just now
        if found is None:
            raise
        return found.experiment_id


def link(where: str, experiment_id: str, run_id: str) -> str:
    """Says where a person finds a run of the tracking store at `where`."""
    if where.startswith("http"):
        return f"{where}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{run_id} in {where} (`mlflow ui` shows it)"


class Tracker:
    """One MLflow run, whatever the number of ranks, recorders and restarts.

    Every method may be called again after it failed, and then adds only what is missing.
    """

    def __init__(self, experiment: str, run_name: str, key: str = "", run_id: str = "", parent: str = "") -> None:
        """Goes on with the run that has this id or this key, or starts one that has the key.

        key: empty makes one, for a run that no other process goes on with.
        parent: the id of the MLflow run that it is a child of.
        """
        import mlflow

        for name, value in CLIENT.items():
            os.environ.setdefault(name, value)
        mlflow.set_tracking_uri(uri())
        self._client = mlflow.MlflowClient()
        self._key = key or uuid.uuid4().hex
        self.experiment_id = find_experiment(self._client, experiment)
        self._run = self._known(run_id) or self._find() or self._create(run_name, parent)
        self.run_id: str = self._run.info.run_id
        self._stored: dict[str, set[int]] | None = None
        if self._run.data.tags.get(KEY) != self._key:  # known by its id, as one that a job's history made
            self._client.set_tag(self.run_id, KEY, self._key)
        if self._run.info.status != "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")

    def _known(self, run_id: str) -> Any:
        from mlflow.exceptions import MlflowException

        if not run_id:
            return None
        try:
            return self._client.get_run(run_id)
        except MlflowException as problem:
            if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None  # the store is another one, or was made anew
            raise

    def _create(self, run_name: str, parent: str) -> Any:
        tags = {KEY: self._key, **({PARENT: parent} if parent else {})}
        return self._client.create_run(self.experiment_id, run_name=run_name, tags=tags)

    def _find(self) -> Any:
        found = self._same()
        return found[0] if found else None

    def _same(self) -> list[Any]:
        """Lists the runs that have the key, oldest first."""
        asked = f"tags.`{KEY}` = '{self._key}'"
        return list(self._client.search_runs([self.experiment_id], asked, order_by=["attributes.start_time ASC"]))

    def settle(self) -> None:
        """Deletes a twin: a run whose creation was answered too late, when another had been made in its place."""
        for twin in self._same():
            if twin.info.run_id != self.run_id:
                self._client.delete_run(twin.info.run_id)

    def describe(self, parameters: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Logs the settings and what else identifies the run; a tag names settings that are others than at first."""
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(self.run_id).data
        told = {key: str(value) for key, value in parameters.items()}
        new = [Param(key, value) for key, value in told.items() if key not in known.params]
        pairs = [(key, known.params[key], value) for key, value in told.items() if key in known.params]
        changed = ", ".join(f"{key} {then} -> {now}" for key, then, now in pairs if then != now)
        if changed or (told and known.tags.get(CHANGED)):
            tags = {**tags, CHANGED: changed[:LONGEST]}
        self._client.log_batch(self.run_id, params=new, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def describe_data(self, name: str, digest: str) -> None:
        """Logs what the run learns from as a dataset of MLflow's, which keeps 36 characters of a digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest[:36], source_type="local", source=json.dumps({"uri": name}))
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def log(self, points: list[Point]) -> None:
        """Logs points, but those whose step of the metric the run has already."""
        from mlflow.entities import Metric

        stored = self._stored if self._stored is not None else self._read_back()
        self._stored = None  # until all is known to be there
        new = [point for point in points if point.step not in stored.setdefault(point.name, set())]
        for start in range(0, len(new), LIMIT):
            part = new[start : start + LIMIT]
            metrics = [Metric(point.name, point.value, int(point.time * 1000), point.step) for point in part]
            self._client.log_batch(self.run_id, metrics=metrics)
            for point in part:
                stored[point.name].add(point.step)
        self._stored = stored

    def _read_back(self) -> dict[str, set[int]]:
        """Asks MLflow which steps it has: an answer that was lost on its way says nothing of what was stored."""
        names = self._client.get_run(self.run_id).data.metrics
        return {name: {metric.step for metric in self._client.get_metric_history(self.run_id, name)} for name in names}

    def finish(
        self,
        figures: "Mapping[str, Figure]",
        artifact: Path | None,
        journal: Path | None = None,
        place: str = "model",
    ) -> str:
        """Logs plots as images, the artifact and the journal, ends the run, and returns where the artifact lies.

        place: the folder of the run for the artifact; one that was registered from there before must not be in it.
        """
        for name, figure in figures.items():
            self._client.log_figure(self.run_id, figure, f"plots/{name}.png")
        if artifact is not None:
            self._client.log_artifacts(self.run_id, str(artifact), place)
        if journal is not None:
            self._client.log_artifact(self.run_id, str(journal))
        self.end("FINISHED")
        return f"{self._run.info.artifact_uri}/{place}"

    def end(self, status: str) -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""
        self.settle()
        self._client.set_terminated(self.run_id, status)


def git_commit(folder: Path) -> str:
    """Names the commit that a folder is checked out at, with `-dirty` when files differ; empty outside git.

    Code that travelled to a cluster is in no checkout: EAGERLY_COMMIT says where it came from.
    """
    if sent := os.environ.get("EAGERLY_COMMIT"):
        return sent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


class Load:
    """Samples this machine's processors, memory, disks, network and GPUs as MLflow names them."""

    def __init__(self) -> None:
        """Finds what there is to sample; asks no store."""
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
        from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

        self._parts: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        for kind in (GPUMonitor, ROCMMonitor):
            with contextlib.suppress(Exception):  # of the makers' libraries, where there is no such GPU
                self._parts.append(kind())

    def sample(self) -> dict[str, float]:
        """Gives the figures of now; those of rates are since the last sample."""
        found: dict[str, float] = {}
        for part in self._parts:
            part.collect_metrics()
            found |= {name: float(value) for name, value in part.aggregate_metrics().items()}
            part.clear_metrics()
        return found
