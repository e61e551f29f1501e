"""`eagerly train`: trains through Ray Train or in this process, logs to MLflow, registers the model."""

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from eagerly import flags, steps, table, usage
from eagerly.commands.progress import Display
from pipelines import job_log, notices, recording, runs, tasks, tracking, wandb_log
from pipelines.runs import Run
from pipelines.settings import Launch, Settings
from pipelines.stopping import Stopped

Work = Callable[[list[Run], Launch, Callable[[], None]], None]
"""Trains runs; calls the last as soon as it was broken off, and may then take a while to clear up."""
LABEL_WIDTH = 14
"""Columns of the facts that are printed of a run."""
STOPPED = 143
"""The exit code after SIGTERM, as a shell has it."""

HELP = f"""usage: eagerly train TASK [flags]

TASK is one of {", ".join(tasks.TASKS)}, `all`, or the folder of a task of your own with
{", ".join(tasks.FILES)}. `eagerly train TASK --help` shows the task's flags.
`eagerly train --resume RUN_DIR` continues a run with the settings it was last given; RUN_DIR may be below the run's
--storage, as s3://BUCKET/runs/NAME, on a machine that has nothing of it.
`torchrun --nproc-per-node 2 -m eagerly train TASK [flags]` trains in torchrun's processes, without Ray."""


def main(words: list[str]) -> int:
    """Runs `eagerly train ...`. Raises ValueError with a sentence for everything the user can mend."""
    if not words or words[0] in usage.HELP:
        print(HELP)
        return 0
    return train(*plan(words))


def train(launch: Launch, planned: list[Run], ends_here: bool = True) -> int:
    """Trains runs, shows progress from the first second, and prints what came of them; returns the exit code.

    ends_here: whether it says what to do next, as nothing else follows.
    """
    work = _local if launch.local or "RANK" in os.environ else _through_ray
    if _rank() > 0:
        with contextlib.suppress(Stopped):
            work(planned, launch, lambda: None)
        return 0
    try:
        results = _record(work, planned, launch)
    except Stopped as stopped:
        print(f"eagerly: {stopped}; `eagerly train --resume {planned[0].folder}` goes on", file=sys.stderr)
        return STOPPED
    except recording.NotRecorded as problem:
        show(problem.recorded)
        print(f"eagerly: {problem}", file=sys.stderr)
        _tell_supervisor(planned, problem.recorded)
        return 1
    except notices.GivenUp as problem:
        again = " and ".join(f"`eagerly train --resume {run.folder}`" for run in planned)
        print(f"eagerly: {problem}; {again} goes on", file=sys.stderr)
        return 1
    show(results)
    if ends_here and not _is_job():
        say_next(results)
    return 0


def _record(work: Work, planned: list[Run], launch: Launch) -> list[dict[str, Any]]:
    folders = [run.folder for run in planned]
    with Display(folders) as display:
        recorder = recording.Recording(folders, display.note)

        def broken_off() -> None:
            display.say("stopping")
            recorder.hurry()

        try:
            work(planned, launch, broken_off)
        except BaseException as problem:
            display.say("stopping")
            if lacking := recorder.abandon():
                display.note(recording.later(lacking))
            if isinstance(problem, ValueError):
                runs.discard(planned)
            raise
        display.say("registering")
        try:
            return recorder.close()
        except KeyboardInterrupt:
            display.note(recording.later(folders))
            raise


def plan(words: list[str]) -> tuple[Launch, list[Run]]:
    """Reads what to train. Raises ValueError with a sentence for everything the user can mend."""
    first, *rest = words
    if first.startswith("-"):
        return _resume(None, words)
    if any(_names_run(word) for word in rest):
        return _resume(first, rest)
    named = tasks.TASKS if first == "all" else (first,)
    if first == "all":
        _read_flags(first, Settings, rest)  # which refuses, and shows in its help, what not every task has
    parsed = [_parse(word, rest) for word in named]
    launch = parsed[0][1]
    if first == "all" and launch.run_dir:
        raise ValueError("--run-dir names one run's folder; leave it out to train all")
    folder = Path(launch.run_dir) if launch.run_dir else None
    kinds = [(word, tasks.find(word), config) for word, (config, _) in zip(named, parsed, strict=True)]
    if _rank() > 0:
        return launch, [runs.join(word, task, config, folder) for word, task, config in kinds]
    return launch, [runs.create(word, task, config, launch, folder) for word, task, config in kinds]


def _parse(word: str, words: list[str], default: tuple[Settings, Launch] | None = None) -> tuple[Settings, Launch]:
    """Reads a task's own flags and those of every run, in one flat set; `default` replaces their defaults."""
    return _read_flags(word, tasks.find(word).config.Config, words, default)


def _read_flags(
    word: str, kind: type[Settings], words: list[str], default: tuple[Settings, Launch] | None = None
) -> tuple[Settings, Launch]:
    both = make_dataclass("Flags", [("config", kind), ("launch", Launch)], frozen=True)
    both.__doc__ = "Trains every task of eagerly's." if word == "all" else f"Trains {word}."
    given = None if default is None else both(*default)
    parsed: Any = flags.parse(both, words, f"eagerly train {word}", given)
    wandb_log.check(parsed.launch.wandb)
    return parsed.config, parsed.launch


def _resume(word: str | None, words: list[str]) -> tuple[Launch, list[Run]]:
    at = next((number for number, text in enumerate(words) if _names_run(text)), len(words))
    folder = words[at].partition("=")[2] or (words[at + 1] if at + 1 < len(words) else "") if words[at:] else ""
    if not folder or folder.startswith("-"):
        raise ValueError("--resume needs the folder of a run, such as runs/classifier-20261123-142340")
    where, remote = _bring(folder), "://" in folder
    run = runs.reopen(where)
    task = tasks.find(word) if word else run.task
    known = Launch() if _is_job() else runs.launched(run.folder)  # a job's flags say all that is not the default
    before = replace(known, run_dir="", resume=str(run.folder), resume_anyway=False)
    if remote:
        before = replace(before, storage=folder.rstrip("/").rpartition("/")[0])
    config, launch = _parse(word or run.word, words, (run.config, before) if task == run.task else None)
    config = runs.absolute(config)
    runs.check_same(run, task, config, launch.resume_anyway)
    return launch, [runs.change(run, config, launch) if _rank() == 0 else replace(run, config=config)]


def _names_run(word: str) -> bool:
    return word == "--resume" or word.startswith("--resume=")


def _bring(folder: str) -> Path:
    """Finds the folder of a run, or brings what is below an address to runs/."""
    if "://" not in folder:
        return Path(folder)
    from pipelines import storage

    return storage.fetch_run(folder, Path("runs"))


def _local(planned: list[Run], launch: Launch, broken_off: Callable[[], None]) -> None:
    from pipelines import local

    local.train(planned, launch)


def _through_ray(planned: list[Run], launch: Launch, broken_off: Callable[[], None]) -> None:
    """Trains on Ray; where it was broken off, ends a Ray of its own while the recorder ends."""
    from pipelines import launch as ray_launch

    with ray_launch.ended_with(broken_off):
        _on_ray(planned, launch)


def _on_ray(planned: list[Run], launch: Launch) -> None:
    from pipelines import launch as ray_launch
    from pipelines import turns

    streams = [run for run in planned if getattr(run.config, "stream", False)]
    check = partial(_check_data, [run for run in planned if run not in streams])
    if not turns.is_queued():
        check()
    say = partial(_say_waiting, planned[0].folder)
    ray_launch.start_ray(launch, say=say)
    with turns.turn(launch, check, say):
        for run in streams:
            _read(run)
        ray_launch.train(planned, launch)


def _read(run: Run) -> None:
    """Reads streamed data on the cluster's processors, while no worker holds them."""
    from pipelines import journal, loading, uploads

    note = partial(journal.note, run.folder)
    with loading.told(note):
        run.task.data.load(uploads.brought(run.config))
    note({"event": "starting"})


def _check_data(planned: list[Run]) -> None:
    """Refuses bad data now, not when Ray and its workers have started."""
    from pipelines import uploads

    for run in planned:
        if run.config != run.task.config.Config():
            run.task.data.load(uploads.brought(run.config))


def _say_waiting(folder: Path, sentence: str) -> None:
    from pipelines import journal

    journal.note(folder, {"event": "waiting", "sentence": sentence} if sentence else {"event": "starting"})


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _is_job() -> bool:
    return "EAGERLY_JOB" in os.environ


def _tell_supervisor(planned: list[Run], recorded: list[dict[str, Any]]) -> None:
    """Says to a job's supervisor which run lacks its record alone, so that nobody trains it again."""
    there = {result["run_dir"] for result in recorded}
    for run in planned if _is_job() else ():
        if str(run.folder) not in there:
            print(job_log.line({"unrecorded": str(run.folder)}), flush=True)


def show(results: list[dict[str, Any]]) -> None:
    """Prints what came of runs that were recorded."""
    for result in results:
        print(_summary(result))


def say_next(results: list[dict[str, Any]]) -> None:
    """Prints what may be done with the versions that came of runs, of which there is one at least."""
    versions = [result["version"] for result in results]
    champions = [result for result in results if result["version"]["champion"]]
    words = [steps.task_word(runs.reopen(Path(one["run_dir"])).word) for one in champions]
    looks = ["eagerly models list"]
    if len(versions) == 1:
        name, number = versions[0]["name"], versions[0]["version"]
        looks = [f"eagerly models show {name} {number}"]
        looks += [] if champions else [f"eagerly models promote {name} {number}"]
    serves = [f"eagerly serve {' '.join(words)}"] if words else []
    steps.show(*serves, *looks, *steps.pages(results[0]["uri"]), width=LABEL_WIDTH)


def _summary(result: dict[str, Any]) -> str:
    version = result["version"]
    rows = [(f"test {name}", value) for name, value in version["metrics"].items()]
    shown = tracking.link(result["uri"], result["experiment_id"], result["run_id"])
    report = Path(result["run_dir"]) / "gate" / "report.html"
    return "\n".join(
        [
            "",
            table.render((version["name"], "value"), rows),
            f"run folder     {result['run_dir']}",
            f"MLflow run     {shown}",
            *([f"gate's report  {report}, and in MLflow"] if report.exists() else []),
            f"model version  {version['name']} {version['version']}, {result['reason']}",
        ]
    )
