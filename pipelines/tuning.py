"""Searches settings with Ray Tune: ASHA stops poor trials early, Optuna proposes the next; the test split stays unread.

What is asked and what came of it is in the search's journal, and each trial is a run folder with a journal and
checkpoints: a search that was killed goes on from these, and runs no trial again that had come to its end.
"""

import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from pipelines import capacity, journaling, launch, spaces, trials
from pipelines.journal import Journal, Reader
from pipelines.runs import Run
from pipelines.trials import Trial, Tuning

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Tune's own settings: no logs beside our journals, no table on the terminal, Ctrl-C as everywhere."""
LOST_WORKERS = 2
"""So often a trial whose process was lost is begun again, from its checkpoint, before the search is ended."""


def search(tuning: Tuning, say: Callable[[str], None]) -> Trial:
    """Runs the trials that are still to run and returns the best.

    say: gets a sentence as each trial ends. Raises ValueError when none came to its end, and when the machine cut the
    search short: trials that a full disk or lost processes ended are run again when it is resumed.
    """
    start(tuning, say)
    try:
        with journaling.opened(tuning.folder) as journal:
            proposer = Proposer(tuning, journal, say)
            _fit(tuning, proposer)
            if proposer.halted:
                raise ValueError(proposer.halted)
    except OSError as problem:  # of Tune, which writes there too
        if not trials.is_full(problem):
            raise
        raise ValueError(journaling.full(tuning.folder, problem)) from problem
    finally:
        shutil.rmtree(tuning.folder / "ray", ignore_errors=True)
    return trials.best(tuning.folder)


def start(tuning: Tuning, say: Callable[[str], None]) -> None:
    """Joins or starts the cluster that trials run on, unless that was done.

    say: gets what is waited for. Raises ValueError when the cluster has no room for the workers that train the best
    out, or a machine of it does not see the search's folder or what settings name.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    launch.start_ray(tuning.launch, say=lambda sentence: say(sentence) if sentence else None)
    capacity.check_folders([tuning.folder], tuning.launch)
    capacity.check_inputs(tuning.task, tuning.config, tuning.launch)


def _fit(tuning: Tuning, proposer: "Proposer") -> None:
    asked, metric = tuning.search, tuning.task.train.PRIMARY
    asha = ASHAScheduler(time_attr="epoch", max_t=asked.max_epochs, grace_period=1)
    shutil.rmtree(tuning.folder / "ray", ignore_errors=True)
    share = {"cpu": 1, "gpu": asked.gpu_share if tuning.launch.gpu else 0}
    tuner = tune.Tuner(
        tune.with_resources(_try, share),
        tune_config=tune.TuneConfig(
            metric=metric,
            mode="max",
            search_alg=proposer,
            scheduler=asha if asked.scheduler == "asha" else FIFOScheduler(),
            num_samples=asked.trials,
            max_concurrent_trials=_parallel(tuning),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(tuning.folder),
            verbose=0,
            stop=Halt(proposer),
            failure_config=tune.FailureConfig(max_failures=LOST_WORKERS),
        ),
    )
    tuner.fit()


def _parallel(tuning: Tuning) -> int:
    import ray

    if tuning.search.parallel:
        return tuning.search.parallel
    there = ray.cluster_resources()
    if tuning.launch.gpu:
        return max(1, int(there.get("GPU", 1) / tuning.search.gpu_share))
    return int(there["CPU"]) if os.environ.get("RAY_ADDRESS") else os.cpu_count() or 1


class Proposer(Searcher):
    """Asks Optuna for the next configuration, tells it what came of each, and writes down both.

    Trials of an earlier part of the search are proposed again, with the same numbers and values.
    """

    def __init__(self, tuning: Tuning, journal: Journal, say: Callable[[str], None]) -> None:
        """Starts a study that the search's seed fixes; one that goes on must not draw the first values again."""
        super().__init__(metric=tuning.task.train.PRIMARY, mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        earlier = trials.known(tuning.folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls a sampler that minds running trials experimental
            sampler = optuna.samplers.TPESampler(seed=tuning.config.seed + len(earlier), constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._distributions = {name: distribution(one) for name, one in tuning.space.items()}
        self._tuning, self._journal, self._say = tuning, journal, say
        self._earlier = earlier
        self._next = 0
        self._open: dict[str, tuple[Trial, optuna.trial.Trial]] = {}
        self._best = float("-inf")
        self._lost = {event["number"] for event in trials.events(tuning.folder) if event["event"] == "lost"}
        self.halted = ""
        """Why the search ends before its trials have, if it does."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """Accepts what Tune says of metric and mode, which is known already."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Gives the next trial: its folder, its number and the values of its settings."""
        if self.halted or self._next >= self._tuning.search.trials:
            return Searcher.FINISHED
        number, self._next = self._next, self._next + 1
        earlier = self._earlier.get(number)
        if earlier is not None:
            self._study.enqueue_trial(earlier.values)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asked = self._study.ask(self._distributions)
        trial = earlier or Trial(number, asked.params)
        if earlier is None:
            self._journal.append({"event": "trial", "number": number, "values": trial.values})
        self._open[trial_id] = trial, asked
        asks = {"done": trial.state in trials.DONE, "anyway": self._tuning.anyway}
        return {"folder": str(self._tuning.folder), "number": number, "values": trial.values, **asks}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tells Optuna how a trial goes."""
        if trial_id in self._open and not result.get("failed"):
            self._open[trial_id][1].report(result[str(self.metric)], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Writes down what came of a trial, and tells Optuna; one that its machine ended counts as running."""
        trial, asked = self._open.pop(trial_id)
        if trial.state not in trials.DONE:
            trial = self._judge(trial, result or {}, error)
            if trial.state not in trials.DONE:
                return
            ended = {"state": trial.state, "value": trial.value, "epochs": trial.epochs}
            self._journal.append({"event": "done", "number": trial.number, **ended})
            trials.clean(self._tuning.folder, trial.number)
        if trial.state == "finished":
            self._best = max(self._best, trial.value)
            self._study.tell(asked, trial.value)
        else:
            states = optuna.trial.TrialState
            self._study.tell(asked, state=states.PRUNED if trial.state == "stopped" else states.FAIL)
        self._say(self._sentence(trial))

    def _judge(self, trial: Trial, result: dict[str, Any], error: bool) -> Trial:
        number, again = trial.number, f"`eagerly tune --resume {self._tuning.folder}`"
        if error and number not in self._lost:
            self._journal.append({"event": "lost", "number": number})
            lost = f"the process of trial {number + 1} was lost {LOST_WORKERS + 1} times, as when memory runs out"
            self.halted = self.halted or f"{lost}; {again} runs it again"
        elif why := result.get("halted"):
            why = f"trial {number + 1} cannot go on: {why.partition('; make room')[0]}"
            self.halted = self.halted or f"{why}; make room, then {again} goes on"
        elif error or not result or result.get("failed"):
            return replace(trial, state="failed")
        else:
            return trials.judge(self._tuning, trial, float(result[str(self.metric)]), int(result["epoch"]))
        return trial

    def _sentence(self, trial: Trial) -> str:
        shown = ", ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in trial.values.items())
        came = f"{self.metric} {trial.value:.4f} after {trial.epochs} epochs" if trial.epochs else ""
        best = f"; best {self._best:.4f}" if self._best > float("-inf") else ""
        return f"trial {trial.number + 1}/{self._tuning.search.trials} {trial.state} {came} ({shown}){best}"

    def __getstate__(self) -> dict[str, Any]:
        """Gives Tune nothing to keep of a searcher but what it is: the journal has all."""
        return {"_metric": self._metric, "_mode": self._mode}

    def save(self, checkpoint_path: str) -> None:
        """Leaves nothing for Tune either."""

    def restore(self, checkpoint_path: str) -> None:
        """Has nothing to take from Tune."""


class Halt(Stopper):
    """Has Tune end all trials when the machine has ended one."""

    def __init__(self, proposer: Proposer) -> None:
        """Takes who knows."""
        self._proposer = proposer

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Ends no trial for what it reports."""
        return False

    def stop_all(self) -> bool:
        """Whether all are to end."""
        return bool(self._proposer.halted)


def distribution(dimension: spaces.Dimension) -> Any:
    """Gives a dimension in Optuna's terms."""
    kind, values = dimension.kind, dimension.values
    if kind == "choice":
        return optuna.distributions.CategoricalDistribution(values)
    if kind in ("int", "logint"):
        return optuna.distributions.IntDistribution(*values, log=kind == "logint")
    return optuna.distributions.FloatDistribution(*values, log=kind == "loguniform")


def _try(asked: dict[str, Any]) -> None:
    """Runs in a trial's process; what fails is not tried again, and why is in the trial's journal."""
    tuning, number = trials.reopen(Path(asked["folder"])), asked["number"]
    where = trials.place(tuning.folder, number)
    metric, epochs = tuning.task.train.PRIMARY, tuning.search.max_epochs
    failed: dict[str, Any] = {metric: float("-inf"), "epoch": epochs, "failed": True}
    if not asked["done"] and trials.has_failed(where):
        tune.report(failed)
        return
    try:
        _train(trials.start(tuning, number, asked["values"]), tuning, asked)
    except Exception as problem:
        if trials.is_full(problem):
            failed["halted"] = str(problem)
        else:
            refused = isinstance(problem, ValueError)
            trials.fail(where, str(problem) if refused else f"{type(problem).__name__}: {problem}")
            if tuning.launch.gpu and not refused:
                raise  # so that its process ends: the GPU may be of no use to it any more; the next reports the failure
        tune.report(failed)


def _train(run: Run, tuning: Tuning, asked: dict[str, Any]) -> None:
    """Says the epochs that a trial has, and takes those it lacks."""
    from pipelines import loop
    from pipelines.place import Place
    from pipelines.saving import Keeping

    told = 0
    for event in list(Reader(run.folder).new_events()):
        if event["event"] == "epoch" and event["epoch"] >= told:
            told = _tell(event, tuning)
    if asked["done"]:
        return
    with journaling.opened(run.folder) as journal:

        def emit(event: dict[str, Any]) -> None:
            nonlocal told
            journal.append(event)
            if event["event"] == "epoch" and event["epoch"] >= told:
                told = _tell(event, tuning)

        place = Place(device="cuda" if tuning.launch.gpu else "cpu", threads=tuning.launch.threads or 1)
        keeping = Keeping(anyway=asked["anyway"])
        loop.run(run.task, run.config, run.folder, place, emit, trials.data(run), keeping=keeping, test=False)
        journal.append({"event": "ended"})


def _tell(event: dict[str, Any], tuning: Tuning) -> int:
    """Reports an epoch to Tune, which ends the trial here if it is to be stopped; returns the next epoch."""
    metric = tuning.task.train.PRIMARY
    tune.report({metric: event["metrics"][metric], "epoch": event["epoch"] + 1})
    return event["epoch"] + 1
