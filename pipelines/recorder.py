"""A process beside the training that replays journals into MLflow and registers the models.

Training never waits for it, and imports no mlflow. It reads the journals of the run folders it is given, one
after the other, and ends when all are recorded or when its standard input closes; one JSON line a run comes out.
"""

import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines import plots, registry, sealed, tracking
from pipelines.journal import Event, Reader

POLL_SECONDS = 2.0


def main(run_dirs: list[str]) -> int:
    """Records the runs in turn; returns 1 when one could not be recorded."""
    closed = threading.Event()
    threading.Thread(target=_wait_for_end, args=(closed,), daemon=True).start()
    failed = False
    for run_dir in run_dirs:
        try:
            result = Recorder(Path(run_dir)).follow(closed)
        except Exception as problem:  # the boundary of this process: whatever went wrong is said to the parent
            result = {"run_dir": run_dir, "error": f"{type(problem).__name__}: {problem}"}
            failed = True
        print(json.dumps(result), flush=True)
    return int(failed)


def _wait_for_end(closed: threading.Event) -> None:
    sys.stdin.read()
    closed.set()


class Recorder:
    """Follows one run."""

    def __init__(self, run_dir: Path) -> None:
        """Reads what the run is about from its run.json."""
        self.run_dir = run_dir
        self.about: dict[str, Any] = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        self.events: list[Event] = []

    def follow(self, closed: threading.Event) -> dict[str, Any]:
        """Waits for the run to begin, logs it while it lasts, and registers its model when it is done."""
        reader = Reader(self.run_dir)
        tracker: tracking.Tracker | None = None
        while True:
            last = closed.is_set()
            new = list(reader.new_events())
            if tracker is None and any(event["event"] == "start" for event in new):
                tracker = self._start()
            self.events += new
            if tracker is not None:
                tracker.log(new)
                self._describe_data(tracker, new)
            if self.events and self.events[-1]["event"] == "test" and tracker is not None:
                return self._finish(tracker)
            if last:
                if tracker is not None:
                    tracker.end("FAILED" if any(event["event"] == "error" for event in self.events) else "KILLED")
                return {"run_dir": str(self.run_dir), "unfinished": True}
            closed.wait(POLL_SECONDS)

    def _start(self) -> tracking.Tracker:
        memory = self.run_dir / "mlflow.json"
        known = json.loads(memory.read_text())["run_id"] if memory.exists() else ""
        tracker = tracking.Tracker(self.about["task"], self.run_dir.name, known)
        memory.write_text(json.dumps({"run_id": tracker.run_id}))
        word = Path(self.about["word"])
        commit = tracking.git_commit(word if word.is_absolute() else Path(__file__).parent)
        tags = {"eagerly.git_commit": commit, "mlflow.source.git.commit": commit, "eagerly.lock": _lock_digest()}
        tags |= {"mlflow.source.name": f"eagerly train {self.about['word']}", "mlflow.user": os.environ.get("USER", "")}
        tracker.describe({**self.about["config"], **self.about["launch"]}, tags)
        return tracker

    def _describe_data(self, tracker: tracking.Tracker, new: list[Event]) -> None:
        for event in new:
            if event["event"] == "start":
                tracker.describe({"data_digest": event["data_digest"], "parameters": event["parameters"]}, {})
                tracker.describe_data(event["data"], event["data_digest"])

    def _finish(self, tracker: tracking.Tracker) -> dict[str, Any]:
        from safetensors.numpy import load_file

        test = self.events[-1]
        statistics = load_file(self.run_dir / "statistics.safetensors")
        labels = json.loads((self.run_dir / "artifact" / "config.json").read_text()).get("labels", [])
        source = tracker.finish(plots.draw(self.events, statistics, labels), self.run_dir / "artifact")
        promotion, task = self.about["launch"]["promote"], self.about["task"]
        version, reason = registry.register(
            task, source, tracker.run_id, test["digest"], test["metrics"], test["primary"], promotion
        )
        where = {"uri": tracking.uri(), "run_id": tracker.run_id, "experiment_id": tracker.experiment_id}
        return {"run_dir": str(self.run_dir), "version": asdict(version), "reason": reason, **where}


def _lock_digest() -> str:
    """Hashes the packages that are installed, as the lock file would list them."""
    from importlib.metadata import distributions

    pairs = sorted({f"{found.metadata['Name']}=={found.version}".lower() for found in distributions()})
    return sealed.hash_text("\n".join(pairs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
