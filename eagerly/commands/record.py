"""`eagerly record`: brings runs that were trained while MLflow was away into it, and registers their models."""

import shlex
import sys
from pathlib import Path
from typing import Any

from eagerly import steps, usage
from eagerly.commands import train
from pipelines import recording, runs, tracking, trials

HELP = """usage: eagerly record RUN_DIR [RUN_DIR ...]

Replays the journals of runs into MLflow, where it was away or refused while they were trained, registers their
models, and writes what else the runs were to be logged to. What is there already is not logged again.
RUN_DIR may be the folder of a search by `eagerly tune`, too.
MLFLOW_TRACKING_URI says where MLflow is, as for `eagerly train`."""


def main(words: list[str]) -> int:
    """Runs `eagerly record ...`; returns 1 when MLflow did not take a run. Raises ValueError for a folder without."""
    if not words or set(words) & {*usage.HELP}:
        print(HELP)
        return 0
    flag = next((word for word in words if word.startswith("-")), None)
    if flag is not None:
        raise ValueError(f"unknown flag {flag!r}; `eagerly record` takes folders of runs alone")
    folders = [(trials if (Path(word) / trials.ABOUT).exists() else runs).reopen(Path(word)).folder for word in words]
    try:
        results = recording.Recording(folders).close()
    except recording.NotRecorded as problem:
        train.show(problem.recorded)
        print(f"eagerly: {problem}", file=sys.stderr)
        return 1
    versions = [result for result in results if "version" in result]
    train.show(versions)
    for result in results:
        if result.get("unfinished") is False:
            print(f"\n{result['run_dir']} is in MLflow with all its trials, as run {result['run_id']}")
        elif result.get("unfinished"):
            print(f"\n{result['run_dir']} did not end: its metrics are logged")
    _say_next(versions, [result["run_dir"] for result in results if result.get("unfinished")])
    return 0


def _say_next(versions: list[dict[str, Any]], unfinished: list[str]) -> None:
    """Prints how runs go on that did not end; else what may be done with versions, or where the runs are seen."""
    if unfinished:
        resumes = ("tune" if (Path(folder) / trials.ABOUT).exists() else "train" for folder in unfinished)
        commands = zip(resumes, unfinished, strict=True)
        steps.show(*(f"eagerly {verb} --resume {shlex.quote(folder)}" for verb, folder in commands))
    elif versions:
        train.say_next(versions)
    else:
        steps.show("eagerly models list", *steps.pages(tracking.uri()))
