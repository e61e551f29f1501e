"""`eagerly record`: brings runs that were trained while MLflow was away into it, and registers their models."""

import sys
from pathlib import Path

from eagerly.commands import train
from pipelines import recording, runs, trials

HELP = """usage: eagerly record RUN_DIR [RUN_DIR ...]

Replays the journals of runs into MLflow, where it was away or refused while they were trained, registers their
models, and writes what else the runs were to be logged to. What is there already is not logged again.
RUN_DIR may be the folder of a search by `eagerly tune`, too.
MLFLOW_TRACKING_URI says where MLflow is, as for `eagerly train`."""


def main(words: list[str]) -> int:
    """Runs `eagerly record ...`; returns 1 when MLflow did not take a run. Raises ValueError for a folder without."""
    if not words or words[0] in ("--help", "-h"):
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
    train.show([result for result in results if "version" in result])
    for result in results:
        if result.get("unfinished") is False:
            print(f"\n{result['run_dir']} is in MLflow with all its trials, as run {result['run_id']}")
        elif result.get("unfinished"):
            where = result["run_dir"]
            print(f"\n{where} did not end: its metrics are logged; `eagerly train --resume {where}` goes on with it")
    return 0
