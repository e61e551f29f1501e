"""What is kept of jobs in MLflow, where it outlives their cluster: log, journal, how they ended.

`python -m pipelines.history FOLDER` beside a job uploads them now and then, and a last time when its input closes.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import sealed, tracking

LOG, JOURNAL, STATUS = "job.log", "journal.jsonl", "job.json"
UPLOAD_SECONDS = 60.0
ENDS = {"stopped": "KILLED", "failed": "FAILED"}
"""How a job ended, in MLflow's words."""
TAG = "eagerly.job"
PLACE = "job"
"""The folder of a run's artifacts where a job's files are."""


@dataclass(frozen=True)
class Kept:
    """A job as MLflow remembers it."""

    name: str
    task: str
    status: str
    begun: float
    ended: float | None
    run_id: str
    link: str
    said: dict[str, Any]


def follow(folder: Path, closed: threading.Event) -> None:
    """Uploads a job's files to the run that its recorder made, until `closed`, and then once more.

    A job that ended before there was a run gets one of its own, which holds why.
    """
    keeper, pause = Keeper(folder), 0.0
    while not closed.wait(pause):
        pause = UPLOAD_SECONDS
        if (folder / "mlflow.json").exists():
            with contextlib.suppress(Exception):  # tried again at the next turn
                keeper.upload()
    keeper.upload()


class Keeper:
    """Uploads the files of one job."""

    def __init__(self, folder: Path) -> None:
        """Connects to the tracking store."""
        import mlflow

        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        mlflow.set_tracking_uri(tracking.uri())
        self._client = mlflow.MlflowClient()
        self._folder = folder

    def upload(self) -> None:
        """Uploads what is there, and tags the run with the job and where it stands."""
        status = json.loads((self._folder / STATUS).read_text(encoding="utf-8"))
        run_id = self._run(status)
        for name, value in (
            (TAG, status["name"]),
            (f"{TAG}_task", status["task"]),
            (f"{TAG}_said", json.dumps(status)),
        ):
            self._client.set_tag(run_id, name, value[:5000])
        if status["phase"] in ENDS:  # the recorder may have been killed before it could say so
            self._client.set_terminated(run_id, ENDS[status["phase"]])
        for name in (LOG, JOURNAL):
            if (self._folder / name).exists():
                self._client.log_artifact(run_id, str(self._folder / name), PLACE)

    def _run(self, status: dict[str, Any]) -> str:
        memory = self._folder / "mlflow.json"
        if memory.exists():
            return json.loads(memory.read_text())["run_id"]
        task = Path(status["task"]).name
        experiment = tracking.find_experiment(self._client, task)
        run_id = self._client.create_run(experiment, run_name=status["name"]).info.run_id
        sealed.put(memory, json.dumps({"run_id": run_id}))
        return run_id


def jobs(name: str = "") -> list[Kept]:
    """Lists the jobs that MLflow remembers, the newest first; those of one name if given.

    Raises ValueError with a sentence when MLflow refuses or is away.
    """
    import mlflow

    with tracking.asked():
        mlflow.set_tracking_uri(tracking.uri())
        client = mlflow.MlflowClient()
        places = [found.experiment_id for found in client.search_experiments()]
        which = f"tags.`{TAG}` = '{name}'" if name else f"tags.`{TAG}` != ''"
        order = ["attributes.start_time DESC"]
        found = client.search_runs(places, which, order_by=order, max_results=200) if places else []
    return [_kept(run) for run in found]


def log(name: str) -> list[str]:
    """Gives the log of a job that MLflow keeps. Raises ValueError when it keeps none."""
    import mlflow

    kept = jobs(name)
    if not kept:
        raise ValueError(
            f"no job {name!r} is known to MLflow at {tracking.uri()!r}; `eagerly jobs list` shows the jobs"
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mlflow.MlflowClient().download_artifacts(kept[0].run_id, f"{PLACE}/{LOG}", folder)
        except Exception as problem:
            raise ValueError(f"MLflow keeps no log of {name!r}: {problem}") from problem
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()


def _kept(run: Any) -> Kept:
    said = json.loads(run.data.tags.get(f"{TAG}_said", "{}"))
    ended = run.info.end_time / 1000 if run.info.end_time else None
    where = tracking.link(tracking.uri(), run.info.experiment_id, run.info.run_id)
    status = said.get("phase", run.info.status.lower())
    name, task = run.data.tags[TAG], run.data.tags.get(f"{TAG}_task", "")
    return Kept(name, task, status, run.info.start_time / 1000, ended, run.info.run_id, where, said)


def main(words: list[str]) -> int:
    """Follows one job until standard input closes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a job that is stopped still uploads its last words
    closed = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    follow(Path(words[0]), closed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
