"""The folder of a search for settings: what is searched, and what became of each trial; standard library only."""

import contextlib
import errno
import json
import math
import os
import shutil
import time
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines import journaling, runs, sealed, spaces, tasks
from pipelines.journal import Event, Reader, note
from pipelines.runs import Run
from pipelines.settings import Launch, Settings
from pipelines.tasks import Task

if TYPE_CHECKING:
    from pipelines.examples import Data

ABOUT = "tune.json"
BEST = "best"
"""The folder, in a search's own, of the run that trains its best configuration out."""
DONE = ("finished", "stopped", "failed")
FULL = ("; make room, then ", os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
"""What is said of a disk that takes no more, by the saver and by libraries that keep no errno."""
_kept: list[tuple[str, dict[str, Any], set[str], "Data"]] = []
"""At most one data set of this process: its task, the settings it was loaded with, and which of them were read."""


@dataclass(frozen=True)
class Search:
    """How settings are searched; flags of `eagerly tune`."""

    trials: int = 30
    """Configurations to try."""
    max_epochs: int = 8
    """Epochs of a trial that is never stopped; its schedule is laid out for so many."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha stops the worse three quarters of the trials after 1, 4, 16 ... epochs; none lets all run to their end."""
    space: str = ""
    """JSON file of the search space, instead of the task's own: {"lr": "loguniform(1e-4, 1e-1)"}."""
    set: tuple[str, ...] = ()
    """Settings to search, over the others: lr=loguniform(1e-4,1e-1) "width=choice(32, 64)"."""
    parallel: int = 0
    """Trials at a time; 0 takes as many as there are processors, or GPUs with --gpu."""
    gpu_share: float = 1.0
    """Part of a GPU that each trial gets, with --gpu."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        for name, low in (("trials", 1), ("max_epochs", 1), ("parallel", 0)):
            if getattr(self, name) < low:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} is {getattr(self, name)}; the least allowed is {low}")
        if not 0 < self.gpu_share <= 1:
            raise ValueError(f"--gpu-share is {self.gpu_share}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class Tuning:
    """A search, and where it is kept."""

    word: str
    task: Task
    config: Settings
    """What the best is trained out with, but for the settings that are searched."""
    launch: Launch
    search: Search
    words: dict[str, str]
    """The search space."""
    folder: Path
    anyway: bool = False
    """Whether to go on though code or data have changed."""

    @property
    def space(self) -> spaces.Space:
        """The dimensions by setting."""
        return spaces.parse(self.words, self.config)


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried."""

    number: int
    values: dict[str, Any]
    state: str = "running"
    """running, or one of DONE."""
    value: float = float("-inf")
    """The validation metric after its last epoch; with early stopping that of its best, which would be restored."""
    epochs: int = 0


def create(word: str, config: Settings, launch: Launch, search: Search) -> Tuning:
    """Makes the folder of a search. Raises ValueError for a space that cannot be, or a folder that is in use."""
    task = tasks.find(word)
    words = spaces.read(Path(search.space)) if search.space else spaces.of(task.config, config)
    words |= spaces.given(search.set)
    spaces.parse(words, config)
    folder = Path(launch.run_dir or f"runs/tune-{task.name}-{time.strftime('%Y%m%d-%H%M%S')}").resolve()
    if (folder / ABOUT).exists():
        raise ValueError(f"{str(folder)!r} holds a search already; `eagerly tune --resume {folder}` continues it")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--run-dir {str(folder)!r} is not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    word = word if word in tasks.TASKS else str(task.folder)
    config = runs.absolute(config)
    about = {"word": word, "task": task.name, "id": uuid.uuid4().hex, "config": asdict(config), "words": words}
    about |= {"launch": asdict(launch), "search": asdict(search)}
    sealed.put(folder / ABOUT, json.dumps(about, indent=2) + "\n")
    return Tuning(word, task, config, launch, search, words, folder)


def reopen(folder: Path) -> Tuning:
    """Opens a search to continue it. Raises ValueError when the folder holds none."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{str(folder)!r} holds no search: there is no {ABOUT} in it") from None
    except ValueError as problem:
        raise ValueError(f"{str(folder / ABOUT)!r} is damaged: {problem}") from problem
    task = tasks.find(about["word"])
    config = task.config.Config(**_known(task.config.Config, about["config"]))
    launch, search = Launch(**_known(Launch, about["launch"])), Search(**_known(Search, about["search"]))
    return Tuning(about["word"], task, config, launch, search, about["words"], folder.resolve())


def settle(tuning: Tuning, code: str, data: str) -> None:
    """Keeps the digests of what the trials are computed by and from, or compares them with those kept.

    Raises ValueError when they differ, unless the search goes on anyway: trials before and after would not compare.
    """
    path, now = tuning.folder / ABOUT, {"code": code, "data": data}
    about = json.loads(path.read_text(encoding="utf-8"))
    others = [f"by other {name}" for name, digest in now.items() if about.get(name, digest) != digest]
    if others and not tuning.anyway:
        raise ValueError(
            f"trials of the search in {str(tuning.folder)!r} were judged {' and '.join(others)}, so that later ones do "
            "not compare; bring back what it began with, start a new search, or add --resume-anyway"
        )
    sealed.put(path, json.dumps({**about, **now}, indent=2) + "\n")


def _known(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in names}


def events(folder: Path) -> list[Event]:
    """Lists what the search's journal says."""
    return list(Reader(folder).new_events())


def known(folder: Path) -> dict[int, Trial]:
    """Tells what became of the trials, by number."""
    found: dict[int, Trial] = {}
    for event in events(folder):
        if event["event"] == "trial":
            found[event["number"]] = Trial(event["number"], event["values"])
        elif event["event"] == "done":
            ended = {name: event[name] for name in ("state", "value", "epochs")}
            found[event["number"]] = replace(found[event["number"]], **ended)
    return found


def best(folder: Path) -> Trial:
    """Picks the trial with the best validation metric among those that were not stopped early.

    Raises ValueError when none came to its end, with the sentence of the first that failed.
    """
    tried = known(folder)
    ended = [trial for trial in tried.values() if trial.state == "finished" and math.isfinite(trial.value)]
    if not ended:
        failed = sorted(number for number, trial in tried.items() if trial.state == "failed")
        said = [
            event["sentence"] for number in failed for event in events(place(folder, number)) if "sentence" in event
        ]
        odd = [
            f"the metric of trial {n + 1} is {trial.value}" for n, trial in tried.items() if trial.state == "finished"
        ]
        why = [*said, *odd, "processes of trials were lost" if failed else "all were stopped"][0]
        raise ValueError(f"no trial of {len(tried)} came to its end; {why}")
    return max(ended, key=lambda trial: (trial.value, -trial.number))


def judge(tuning: Tuning, trial: Trial, value: float, epochs: int) -> Trial:
    """Says what became of a trial, from its last report: the metric, and after how many epochs.

    A metric that is not finite makes it a failure, which is noted in its journal.
    """
    where, metric = place(tuning.folder, trial.number), tuning.task.train.PRIMARY
    said = events(where)
    if trial.values.get("early_stopping", tuning.config.early_stopping):
        told = (event for event in said if event["event"] == "epoch" and event["epoch"] < epochs)
        values = {event["epoch"]: float(event["metrics"][metric]) for event in told}
        value = max(filter(math.isfinite, [*values.values(), value]), default=value)
    if not math.isfinite(value):
        fail(where, f"{metric} is {value} after {epochs} epochs")
        return replace(trial, state="failed")
    is_whole = epochs >= tuning.search.max_epochs or any(event["event"] == "ended" for event in said)
    return replace(trial, state="finished" if is_whole else "stopped", value=value, epochs=epochs)


def fail(where: Path, sentence: str) -> None:
    """Notes in a trial's journal why it failed, unless the disk is full."""
    with contextlib.suppress(OSError):
        note(where, {"event": "error", "rank": 0, "sentence": sentence})


def has_failed(where: Path) -> bool:
    """Whether the last word of a trial's journal is that it failed."""
    said = events(where)
    return bool(said) and said[-1]["event"] == "error"


def is_full(problem: BaseException) -> bool:
    """Whether what ended a trial is a disk that is full, which says nothing of the trial's settings."""
    one: BaseException | None = problem
    while one is not None:
        if getattr(one, "errno", None) in journaling.FULL or any(words in str(one) for words in FULL):
            return True
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return False


def place(folder: Path, number: int) -> Path:
    """Names a trial's folder."""
    return folder / "trials" / f"{number:04d}"


def start(tuning: Tuning, number: int, values: dict[str, Any]) -> Run:
    """Makes a trial's run folder, or opens it again."""
    folder = place(tuning.folder, number)
    if (folder / runs.ABOUT).exists():
        return runs.reopen(folder)
    shutil.rmtree(folder, ignore_errors=True)
    config = replace(tuning.config, **values, epochs=tuning.search.max_epochs)
    launch = Launch(local=True, gpu=tuning.launch.gpu, promote="never", tensorboard=False)
    return runs.create(tuning.word, tuning.task, config, launch, folder)


def clean(folder: Path, number: int) -> None:
    """Removes the checkpoints of a trial that is done; its journal stays."""
    shutil.rmtree(place(folder, number) / "checkpoints", ignore_errors=True)


def data(run: Run) -> "Data":
    """Loads a trial's data, once for all trials of a process whose settings are alike where loading reads them."""
    values = vars(run.config)
    for word, seen, read, kept in _kept:
        if word == run.word and all(seen[name] == values[name] for name in read):
            return kept
    _kept.clear()
    noting, read = _noting(run.config)
    loaded = run.task.data.load(noting)
    _kept.append((run.word, values, read, loaded))
    return loaded


def _noting(config: Settings) -> tuple[Any, set[str]]:
    """Copies settings so that the copy notes which of its fields are read, from now on."""
    names, read = {field.name for field in fields(config)}, set[str]()

    class Noting(type(config)):
        def __getattribute__(self, name: str) -> Any:
            if name in names:
                read.add(name)
            return super().__getattribute__(name)

    copy = object.__new__(Noting)
    object.__getattribute__(copy, "__dict__").update(vars(config))
    return copy, read
