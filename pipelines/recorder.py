"""A process beside the training that replays journals into MLflow and registers the models.

Training never waits for it, and imports no mlflow. It reads the journals of the run folders it is given, one
after the other, and ends when all are recorded or when its standard input closes. JSON lines come out: a result for
each run, and a notice where something is amiss that does not end the recording, such as a tracker that is away.
"""

import contextlib
import fcntl
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines import feeds, history, plots, points, promotion, sampling, sealed, tracking
from pipelines.journal import LOAD, NAME, Event, Reader

POLL_SECONDS = 2.0
LONGEST_SECONDS = 30.0
"""A tracker that is away is asked again after 2 s, 4 s and so on, at most so long, for as long as training lasts."""
FEEDS_SECONDS = 60.0
"""Other stores than MLflow may take so long at the end."""
HURRY, HURRIED_SECONDS = "hurry", 3.0
"""What the parent writes before it closes our standard input when the run was broken off, and what is waited then."""
MEMORY, LOCK = "mlflow.json", ".recorder.lock"


def main(run_dirs: list[str]) -> int:
    """Records the runs in turn; returns 1 when one could not be recorded."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a job that is stopped is recorded to its end
    closed = End()
    threading.Thread(target=_wait_for_end, args=(closed,), daemon=True).start()
    failed = False
    for run_dir in run_dirs:
        try:
            result = of(Path(run_dir)).follow(closed)
        except Exception as problem:  # the boundary of this process: whatever went wrong is said to the parent
            result = {"run_dir": run_dir, "error": str(problem) or type(problem).__name__}
            failed = True
        _tell(result)
    return int(failed)


def _tell(said: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # a parent that was in a hurry has ended
        print(json.dumps(said), flush=True)


def of(folder: Path) -> "Recorder":
    """Gives the recorder of a folder: of a run, or of a search for settings."""
    from pipelines.tune_recorder import TuneRecorder, trials

    return TuneRecorder(folder) if (folder / trials.ABOUT).exists() else Recorder(folder)


class End(threading.Event):
    """Is set when the training has ended."""

    is_hurried = False
    """Whether somebody waits for the end, as after Ctrl-C; then a tracker that is away is not waited for."""


def _wait_for_end(closed: End) -> None:
    closed.is_hurried = HURRY in sys.stdin.read()
    if closed.is_hurried:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(round(HURRIED_SECONDS))
    closed.set()


class Recorder:
    """Follows one run."""

    description = "run.json"
    ended = "KILLED"
    """How a run has ended that neither came to its test nor failed."""

    def __init__(self, run_dir: Path) -> None:
        """Reads what the run is about from its run.json."""
        self.run_dir = run_dir
        self.about: dict[str, Any] = json.loads((run_dir / self.description).read_text(encoding="utf-8"))
        self.about.setdefault("id", sealed.hash_text(str(run_dir.resolve()))[:32])
        self.events: list[Event] = []
        self._points, self._once = points.Points(), points.Once()
        self._waiting: list[points.Point] = []
        self._tracker: tracking.Tracker | None = None
        self._told: dict[str, Any] = {}
        self._described: Event | None = None
        self._is_greeted = False
        self._readers = [Reader(run_dir), Reader(run_dir, LOAD)]
        self._sampler = sampling.Sampler(run_dir)

    def follow(self, closed: threading.Event) -> dict[str, Any]:
        """Waits for the run to begin, logs it while it lasts, and registers its model when it is done.

        Raises ValueError with a sentence when MLflow does not take the run, or not in time after `closed`.
        """
        tracking.prepare()
        with self._alone(closed), self._beside():
            attempts, deadline, complaint = 0, float("inf"), ""
            while True:
                last = closed.is_set()
                deadline = min(deadline, time.monotonic() + self._patience(closed)) if last else deadline
                try:
                    self._read()
                    result = self._advance(last)
                    if attempts:
                        _tell({"run_dir": str(self.run_dir), "away": False})
                    attempts, complaint = 0, ""
                except Exception as problem:  # MLflow's own, of any store: the journal keeps what is to be logged
                    result, attempts = None, attempts + 1
                    sentence, passing = tracking.explain(problem)
                    if last and (not passing or time.monotonic() >= deadline):
                        raise ValueError(sentence) from problem
                    if passing and attempts == 1:
                        _tell({"run_dir": str(self.run_dir), "away": True})
                    if complaint != sentence.partition("(")[0]:
                        complaint = sentence.partition("(")[0]
                        self._notice(f"{sentence}; the run goes on, and its folder keeps all until MLflow has it")
                if result is not None:
                    return result
                self._wait(closed, attempts)

    def _patience(self, closed: threading.Event) -> float:
        if isinstance(closed, End) and closed.is_hurried:
            return HURRIED_SECONDS
        return float(self.about["launch"].get("tracker_patience", 60.0))

    def _wait(self, closed: threading.Event, attempts: int) -> None:
        """Waits for more to log; longer and longer, and not all runs at once, while MLflow is away."""
        if not attempts:
            closed.wait(POLL_SECONDS)
            return
        wait = min(LONGEST_SECONDS, POLL_SECONDS * 2 ** (attempts - 1)) * random.uniform(0.75, 1.25)
        if closed.is_set():
            time.sleep(min(wait, POLL_SECONDS, self._patience(closed) / 4 + 0.1))
        else:
            closed.wait(wait)

    def _notice(self, sentence: str) -> None:
        _tell({"run_dir": str(self.run_dir), "notice": sentence})

    @contextlib.contextmanager
    def _alone(self, closed: threading.Event) -> Iterator[None]:
        """Waits until no other recorder follows this run, as one does for a moment whose training was killed."""
        deadline = float("inf")
        with (self.run_dir / LOCK).open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    deadline = (
                        min(deadline, time.monotonic() + 2 * self._patience(closed)) if closed.is_set() else deadline
                    )
                    if time.monotonic() > deadline:
                        raise ValueError("another process records it, and has not ended") from None
                    time.sleep(0.2)
            yield

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        """Feeds the other stores, and samples the machine's load while the run lasts, but not long after it."""
        self._sampler.start_if_live()
        beside = list(self._feeds())
        for feed in beside:
            feed.start()
        try:
            yield
        finally:
            self._sampler.end()
            for feed in beside:
                feed.end(not self._is_trained())
            for feed in beside:
                feed.join(FEEDS_SECONDS)

    def _feeds(self) -> Iterator[feeds.Feed]:
        launch = self.about["launch"]
        settings = {**self.about["config"], **launch}
        if launch.get("tensorboard", True):
            from pipelines.tensorboard import Board

            yield feeds.Feed("TensorBoard", lambda: Board(self.run_dir, settings), self.run_dir, self._notice)
        if (mode := launch.get("wandb", "no")) != "no":
            from pipelines.wandb_log import Copy

            yield feeds.Feed("W&B", lambda: Copy(self.run_dir, self.about, mode), self.run_dir, self._notice)

    def _is_trained(self) -> bool:
        """Whether the test came after the last start: a run that is resumed when it was done tests again."""
        kinds = [event["event"] for event in self.events if event["event"] in ("loading", "start", "test")]
        return bool(kinds) and kinds[-1] == "test"

    def _read(self) -> None:
        """Takes in what the journals say by now."""
        for reader in self._readers:
            for event in reader.new_events():
                if event["event"] != "load":
                    self.events.append(event)
                self._waiting += self._once.take(self._points.take(event))

    def _advance(self, last: bool) -> dict[str, Any] | None:
        """Brings MLflow up to date; may be called again after it failed at any point. Returns the result, if final."""
        if not (last or self._is_greeted):
            tracking.greet()
            self._is_greeted = True
        if last or self._is_trained():
            self._sampler.end()
            self._read()
        start = next((event for event in reversed(self.events) if event["event"] == "start"), None)
        if start is not None:
            self._tracker = self._tracker or self._start()
            self._describe(self._tracker, start)
            self._tracker.log(self._waiting)
            self._waiting = []
            self._tell(self._tracker)
            if self._is_trained():
                return self._finish(self._tracker)
        if not last:
            return None
        if self._tracker is not None:
            self._tracker.end("FAILED" if self._points.error else self.ended)
        return {"run_dir": str(self.run_dir), "unfinished": True}

    def _open(self, parent: str) -> tracking.Tracker:
        """Opens the MLflow run of this folder, and remembers which it is."""
        memory = self.run_dir / MEMORY
        tracker = tracking.Tracker(self.about["task"], self.run_dir.name, self.about["id"], _known(memory), parent)
        sealed.put(memory, json.dumps({"run_id": tracker.run_id, "experiment_id": tracker.experiment_id}))
        return tracker

    def _start(self) -> tracking.Tracker:
        searched = _known(self.run_dir.parent / MEMORY)  # the folder of a search holds the run of its best
        return self._open(self.about.get("parent", searched))

    def _describe(self, tracker: tracking.Tracker, start: Event) -> None:
        """Logs what the run is, and again when it has started again: with --resume-anyway it may be another."""
        if start is self._described:
            return
        word = Path(self.about["word"])
        commit = tracking.git_commit(word if word.is_absolute() else Path(__file__).parent)
        tags = {"eagerly.git_commit": commit, "mlflow.source.git.commit": commit, "eagerly.lock": _lock_digest()}
        tags |= {"mlflow.source.name": f"eagerly train {self.about['word']}", "mlflow.user": os.environ.get("USER", "")}
        tags |= {history.TAG: job} if (job := os.environ.get("EAGERLY_JOB")) else {}
        learned = {"data_digest": start["data_digest"], "parameters": start["parameters"]}
        tracker.describe({**self.about["config"], **self.about["launch"], **learned}, tags)
        tracker.describe_data(start["data"], start["data_digest"])
        self._described = start

    def _tell(self, tracker: tracking.Tracker) -> None:
        """Keeps the tags up to date that say what happened besides metrics."""
        now = points.about(self._points, self._once)
        if now != self._told:
            tracker.describe({}, {**dict.fromkeys(self._told, ""), **now})
            self._told = now

    def _finish(self, tracker: tracking.Tracker) -> dict[str, Any]:
        from safetensors.numpy import load_file

        tests = [event for event in self.events if event["event"] == "test"]
        test = tests[-1]
        place = "model" if test["digest"] == tests[0]["digest"] else f"model-{test['digest'][:12]}"
        statistics = load_file(self.run_dir / "statistics.safetensors")
        labels = json.loads((self.run_dir / "artifact" / "config.json").read_text()).get("labels", [])
        figures = plots.draw(self.events, statistics, labels)
        plots.save(figures, self.run_dir / "plots")
        source = tracker.finish(figures, self.run_dir / "artifact", self.run_dir / NAME, place)
        version, reason = promotion.register(self.run_dir, self.about, test, source, tracker.run_id)
        where = {"uri": tracking.uri(), "run_id": tracker.run_id, "experiment_id": tracker.experiment_id}
        return {"run_dir": str(self.run_dir), "version": asdict(version), "reason": reason, **where}


def _known(memory: Path) -> str:
    return json.loads(memory.read_text())["run_id"] if memory.exists() else ""


def _lock_digest() -> str:
    """Hashes the packages that are installed, as the lock file would list them."""
    from importlib.metadata import distributions

    pairs = sorted({f"{found.metadata['Name']}=={found.version}".lower() for found in distributions()})
    return sealed.hash_text("\n".join(pairs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
