"""A run in Weights & Biases, online or as files for `wandb sync`, written from its journal."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.journal import Event
from pipelines.points import Once, Point, Points


def check(mode: str) -> None:
    """Raises ValueError when a run is to go to Weights & Biases and its package is not there."""
    if mode != "no" and importlib.util.find_spec("wandb") is None:
        way = "in the checkout, pip install '.[wandb]', or leave --wandb out"
        raise ValueError(f"--wandb {mode} needs the package wandb; {way}")


class Copy:
    """One run in Weights & Biases, with the same id over all restarts.

    The rows follow from the journal alone and are numbered: online, those that the server has are passed over;
    offline, the files are written anew from the first row.
    """

    def __init__(self, run_dir: Path, about: dict[str, Any], mode: str) -> None:
        """Starts the run or goes on with it; raises what wandb raises when it cannot."""
        import wandb

        if mode == "offline":
            for old in (run_dir / "wandb").glob("offline-run-*"):
                shutil.rmtree(old)
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, init_timeout=30, x_disable_meta=True)
        self._run: Any = wandb.init(
            project=f"eagerly-{about['task']}",
            name=run_dir.name,
            id=about["id"],
            dir=str(run_dir),
            mode="offline" if mode == "offline" else "online",
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            config={**about["config"], **about["launch"]},
            settings=quiet,
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        self._points, self._once = Points(), Once()
        self._number, self._there = 0, self._run.starting_step
        self._run_dir = run_dir

    def take(self, events: list[Event]) -> None:
        """Logs the rows of events."""
        for event in events:
            for row in _rows(self._once.take(self._points.take(event))):
                if self._number >= self._there:
                    self._run.log(row, step=self._number)
                self._number += 1

    def close(self, failed: bool) -> None:
        """Adds the plots, and ends the run."""
        import wandb

        plots = sorted((self._run_dir / "plots").glob("*.png"))
        if plots and self._number >= self._there:
            row: dict[str, Any] = {f"plots/{path.stem}": wandb.Image(str(path)) for path in plots}
            self._run.log({**row, "step": self._points.step}, step=self._number)
        self._run.finish(exit_code=int(failed))


def _rows(points: list[Point]) -> Iterator[dict[str, float]]:
    """Puts the points of an event that have a step in common into one row."""
    rows: dict[int, dict[str, float]] = {}
    for point in points:
        rows.setdefault(point.step, {"step": point.step})[point.name] = point.value
    yield from rows.values()
