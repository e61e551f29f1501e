"""`eagerly tune`: searches settings by validation alone, then trains the best out, logs and registers it."""

import sys
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import Any

from eagerly import flags, usage
from eagerly.commands import train
from pipelines import journaling, recording, runs, tasks, trials, wandb_log
from pipelines.trials import Trial, Tuning

HELP = f"""usage: eagerly tune TASK [--trials 30] [--max-epochs 8] [flags]

Tries configurations of a task's search space with Ray Tune, and trains the best out as `eagerly train` does.
TASK is one of {", ".join(tasks.TASKS)}, or the folder of a task of your own.
`eagerly tune TASK --help` shows all flags, those of `eagerly train` among them.
`eagerly tune --resume TUNE_DIR` continues a search that was cut short, as it was begun, with no flags besides --wait
and --resume-anyway; trials that had ended are not run again."""


@dataclass(frozen=True, kw_only=True)
class Again:
    """Continues a search that was cut short."""

    resume: str
    """Folder of the search."""
    resume_anyway: bool = False
    """Whether to go on though code or data have changed; its trials were then not judged alike."""
    wait: bool = False
    """Whether to wait for processors or GPUs that the cluster lacks now, instead of being refused."""


def main(words: list[str]) -> int:
    """Runs `eagerly tune ...`. Raises ValueError with a sentence for everything the user can mend."""
    if not words or words[0] in usage.HELP or (words[0].startswith("-") and set(words) & {*usage.HELP}):
        print(HELP)
        return 0
    tuning = _plan(words)
    best = _search(tuning)
    settings = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in best.values.items())
    print(f"\nbest of {len(trials.known(tuning.folder))} trials: number {best.number + 1}, {settings}")
    print(f"search folder  {tuning.folder}", flush=True)
    run = _best_run(tuning, best)
    launch = tuning.launch
    if tuning.anyway:
        launch = replace(launch, run_dir="", resume=str(run.folder), resume_anyway=True)
    return train.train(launch, [run])


def _plan(words: list[str]) -> Tuning:
    first, *rest = words
    if first.startswith("-"):
        if first.partition("=")[0] != "--resume":
            raise ValueError("`eagerly tune` needs a task, or --resume with the folder of a search")
        return _resume(words)
    if any(word.partition("=")[0] == "--resume" for word in rest):
        return _resume(rest, tasks.find(first).name)
    task = tasks.find(first)
    both = make_dataclass(
        "Flags", [("config", task.config.Config), ("launch", runs.Launch), ("search", trials.Search)], frozen=True
    )
    both.__doc__ = f"Searches settings of {first}."
    parsed: Any = flags.parse(both, rest, f"eagerly tune {first}")
    wandb_log.check(parsed.launch.wandb)
    return trials.create(first, parsed.config, parsed.launch, parsed.search)


def _resume(words: list[str], name: str = "") -> Tuning:
    """Opens a search to continue it, as it was begun. Raises ValueError for other words, and for another task's."""
    try:
        again = flags.parse(Again, words, "eagerly tune")
    except ValueError as problem:
        raise ValueError(f"a search that is resumed goes on as it was begun: {problem}") from problem
    tuning = trials.reopen(Path(again.resume))
    if name not in ("", tuning.task.name):
        raise ValueError(f"{again.resume!r} is a search of {tuning.task.name}, not of {name}")
    launch = replace(tuning.launch, wait=tuning.launch.wait or again.wait)
    return replace(tuning, launch=launch, anyway=again.resume_anyway)


def _search(tuning: Tuning) -> Trial:
    from pipelines import identity
    from pipelines import tuning as ray_tuning

    if any(event["event"] == "best" for event in trials.events(tuning.folder)):
        return trials.best(tuning.folder)
    if getattr(tuning.config, "stream", False):
        ray_tuning.start(tuning, _say)  # whose processors read what outgrows memory
    data = tuning.task.data.load(tuning.config)  # refuses bad data now, not in each trial
    trials.settle(tuning, identity.code_digest(tuning.task), data.digest)
    recorder = recording.Recording([tuning.folder])
    try:
        best = ray_tuning.search(tuning, _say)
    except BaseException:
        if lacking := recorder.abandon():
            _say(f"eagerly: {recording.later(lacking)}")
        raise
    with journaling.opened(tuning.folder) as journal:
        journal.append({"event": "best", "number": best.number, "values": best.values, "value": best.value})
    try:
        recorder.close()
    except recording.NotRecorded as problem:
        _say(f"eagerly: {problem}")
    return best


def _best_run(tuning: Tuning, best: Trial) -> runs.Run:
    folder = tuning.folder / trials.BEST
    if (folder / runs.ABOUT).exists():
        return runs.reopen(folder)
    launch = replace(tuning.launch, run_dir=str(folder))
    return runs.create(tuning.word, tuning.task, replace(tuning.config, **best.values), launch, folder)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
