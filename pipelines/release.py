"""What a run leaves when it has learned: the model artifact, and what was seen on the test split."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pipelines import artifact, conversion, reference, results
from pipelines.examples import Data
from pipelines.settings import Settings
from pipelines.tasks import Task

STATISTICS = "statistics.safetensors"


def write(
    task: Task,
    config: Settings,
    model: Any,
    data: Data,
    run_dir: Path,
    state: str,
    sums: dict[str, Tensor],
    columns: dict[str, Tensor],
    metrics: dict[str, float],
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, float]:
    """Writes statistics, each test example's results and the artifact of a run, and emits `state` and `test`.

    `state` is the digest of what the run has come to: the artifact that is there stays if it is of the same.
    Returns the metrics, with those of the task's baselines where it has any.
    """
    emit({"event": "state", "digest": state})
    save_file({name: value.cpu().contiguous() for name, value in sums.items()}, run_dir / STATISTICS)
    if columns:
        slices = task.data.slices(data) if hasattr(task.data, "slices") else {}
        prints = task.data.fingerprints(data) if hasattr(task.data, "fingerprints") else None
        results.write(run_dir, columns, data, slices, prints)
    if hasattr(task.train, "baselines"):
        metrics = metrics | task.train.baselines(data, config)
    folder = run_dir / "artifact"
    fill = partial(_fill, model=model, task=task, data=data)
    digest = artifact.kept(folder, state)
    digest = digest or artifact.write(folder, task.name, fill, conversion.schema_of(model), state)
    emit({"event": "test", "metrics": metrics, "primary": task.train.PRIMARY, "digest": digest})
    return metrics


def _fill(folder: Path, model: Any, task: Task, data: Data) -> None:
    """Writes the model, and what it makes of the validation split as its callers would send it."""
    model.save(folder)
    if hasattr(task.data, "inputs"):
        measured = reference.measure(model, task.data.inputs(data))
        if measured is not None:
            (folder / reference.FILE).write_text(measured.to_json(), encoding="utf-8")
