"""Replays a search for settings into MLflow: one parent run, a child for each trial, and a plot of all."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines import plots, tracking, trials
from pipelines.recorder import MEMORY, Recorder


class TrialRecorder(Recorder):
    """Replays a trial, a child of the search's run."""

    ended = "FINISHED"

    def bring(self, parent: str, is_done: bool) -> bool:
        """Brings MLflow up to date; returns whether all is logged that will ever be."""
        self.about["parent"] = parent
        self._read()
        return self._advance(is_done) is not None


class TuneRecorder(Recorder):
    """Follows a search."""

    description = trials.ABOUT

    def __init__(self, run_dir: Path) -> None:
        """Reads what is searched from the folder's tune.json."""
        super().__init__(run_dir)
        self._children: dict[int, TrialRecorder] = {}
        self._logged: set[int] = set()

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        yield

    def _advance(self, last: bool) -> dict[str, Any] | None:
        tried = trials.known(self.run_dir)
        if tried:
            self._tracker = self._tracker or self._start()
            best = next((event for event in self.events if event["event"] == "best"), None)
            for number, trial in tried.items():
                is_done = last or best is not None or trial.state in trials.DONE
                self._bring(self._tracker.run_id, number, is_done)
            if best is not None:
                return self._finish_search(self._tracker, best, tried)
        if not last:
            return None
        if self._tracker is not None:
            self._tracker.end("KILLED")
        return {"run_dir": str(self.run_dir), "unfinished": True}

    def _start(self) -> tracking.Tracker:
        tracker = self._open("")
        described = {**self.about["config"], **self.about["search"]}
        tracker.describe(described | {f"space/{name}": words for name, words in self.about["words"].items()}, {})
        return tracker

    def _bring(self, parent: str, number: int, is_done: bool) -> None:
        folder = trials.place(self.run_dir, number)
        if number in self._logged or not (folder / "run.json").exists():
            return
        if number not in self._children:
            self._children[number] = TrialRecorder(folder)
        if self._children[number].bring(parent, is_done):
            self._logged.add(number)
            del self._children[number]

    def _finish_search(
        self, tracker: tracking.Tracker, best: dict[str, Any], tried: dict[int, trials.Trial]
    ) -> dict[str, Any]:
        curves = {number: _curve(trials.place(self.run_dir, number)) for number in tried}
        figures = plots.draw_trials(list(tried.values()), curves, best["number"])
        plots.save(figures, self.run_dir / "plots")
        tracker.describe({}, {"eagerly.best": json.dumps(best["values"]), "eagerly.best_trial": best["number"]})
        _adopt(tracker, self.run_dir / trials.BEST / MEMORY)
        tracker.finish(figures, None, self.run_dir / "journal.jsonl")
        return {"run_dir": str(self.run_dir), "unfinished": False, "run_id": tracker.run_id}


def _adopt(tracker: tracking.Tracker, memory: Path) -> None:
    """Makes the run of the best a child of the search's, if it was recorded before MLflow knew of the search."""
    if not memory.exists():
        return
    child = copy.copy(tracker)
    child.run_id = json.loads(memory.read_text())["run_id"]
    try:
        child.describe({}, {tracking.PARENT: tracker.run_id})
    except Exception as problem:
        if tracking.explain(problem)[1]:
            raise  # MLflow is away; else it is another one than the best went to, or that was deleted


def _curve(folder: Path) -> dict[int, dict[str, float]]:
    """Reads a trial's validation metrics by epoch."""
    return {event["epoch"] + 1: event["metrics"] for event in trials.events(folder) if event["event"] == "epoch"}
