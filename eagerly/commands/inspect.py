"""`eagerly inspect`: runs one real step and shows its graph, values, costs and numerics, as text and as a page."""

import os
import shlex
import time
import webbrowser
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eagerly import flags, steps, usage
from pipelines import runs, tasks
from pipelines.runs import Run
from pipelines.settings import Settings

if TYPE_CHECKING:
    from pipelines.inspection import Wish

LABEL_WIDTH = 6
"""Columns of the words before the paths of page and trace."""
HELP = f"""usage: eagerly inspect TASK [--batch FILE] [--run RUN_DIR] [--out DIR] [--open] [train flags]

TASK is one of {", ".join(tasks.TASKS)}, or the folder of a task of your own.
`eagerly inspect TASK --help` shows all flags. `eagerly inspect --run RUN_DIR` looks at the next step of a run.

A batch file has a row a line: JSON in the form that `eagerly predict --file` takes, with the label beside it where
there is one, such as {{"text": "...", "label": "positive"}}; or the number of a training example."""


@dataclass(frozen=True)
class Look:
    """What to look at, and where to leave what was seen."""

    batch: str = ""
    """File whose rows make up the batch; empty takes the batch that training would."""
    run: str = ""
    """Folder of a run: the weights of its newest checkpoint, at its next step; empty takes fresh weights."""
    out: str = ""
    """Folder for page, text and trace; empty makes one under inspections/."""
    open: bool = False
    """Whether to show the page in a browser."""
    compare: tuple[Literal["amp", "ddp", "compile"], ...] = ("amp", "ddp", "compile")
    """Other ways to compute the step; compiling takes the longest, at most two minutes."""
    batches: int = 3
    """Following batches whose graphs are compared with the step's."""
    gpu: bool = False
    """Whether to compute on a GPU."""
    threads: int = 1
    """CPU threads."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        if not 0 <= self.batches <= 64:
            raise ValueError(f"--batches is {self.batches}; it must be 0 to 64")
        if self.threads < 1:
            raise ValueError(f"--threads is {self.threads}; the least allowed is 1")


def main(words: list[str]) -> int:
    """Runs `eagerly inspect ...`. Raises ValueError with a sentence for everything the user can mend."""
    if not words or words[0] in usage.HELP:
        print(HELP)
        return 0
    word, config, look = _parse(words)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # what the profiler and DDP say of themselves is not for a user
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from pipelines import inspection

    task = tasks.find(word)
    out = Path(look.out or Path("inspections") / f"{task.name}-{time.strftime('%Y%m%d-%H%M%S')}").resolve()
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {str(out)!r} is a file; name a folder")
    report = inspection.inspect(task, config, _wish(look), out)
    print(report.to_text())
    print(f"page   {out / inspection.PAGE}\ntrace  {out / inspection.TRACE}")
    page = (out / inspection.PAGE).as_uri()
    if look.open:
        webbrowser.open(page)
    trains = (
        f"--resume {shlex.quote(look.run)}"
        if look.run
        else steps.task_word(word if word in tasks.TASKS else str(task.folder))
    )
    steps.show(f"python3 -m webbrowser {shlex.quote(page)}", f"eagerly train {trains}", width=LABEL_WIDTH)
    return 0


def _wish(look: Look) -> "Wish":
    import torch

    from pipelines.inspection import Wish

    if look.gpu and not torch.cuda.is_available():
        raise ValueError("--gpu asks for a GPU and this machine has none that PyTorch can use; leave it out")
    return Wish(
        run_dir=Path(look.run).resolve() if look.run else None,
        file=Path(look.batch) if look.batch else None,
        ways=look.compare,
        batches=look.batches,
        device="cuda" if look.gpu else "cpu",
        threads=look.threads,
    )


def _parse(words: list[str]) -> tuple[str, Settings, Look]:
    """Reads task, settings and what to look at; a run brings its own settings, and no others are taken."""
    given, rest = ("", words) if words[0].startswith("-") else (words[0], words[1:])
    run = _run(rest)
    word = given or (run.word if run else "")
    if not word:
        raise ValueError("name a task, or a run with --run RUN_DIR; `eagerly inspect --help` shows how")
    task = tasks.find(word)
    both = make_dataclass("Flags", [("config", task.config.Config), ("look", Look)], frozen=True)
    both.__doc__ = f"Looks inside one step of {word}."
    default = both(run.config, Look(run=str(run.folder))) if run and run.task == task else None
    parsed: Any = flags.parse(both, rest, f"eagerly inspect {word}", default)
    if run is not None and task.name != run.task.name:
        raise ValueError(f"{str(run.folder)!r} is a run of {run.task.name}, not of {task.name}")
    if run is not None and runs.absolute(parsed.config) != run.config:
        raise ValueError(f"--run looks at {str(run.folder)!r} with its own settings; leave out the flags of training")
    return word, parsed.config, parsed.look


def _run(words: list[str]) -> Run | None:
    at = next((number for number, word in enumerate(words) if word.partition("=")[0] == "--run"), None)
    if at is None:
        return None
    folder = words[at].partition("=")[2] or (words[at + 1] if at + 1 < len(words) else "")
    if not folder or folder.startswith("-"):
        raise ValueError("--run needs the folder of a run, such as runs/classifier-20261123-142340")
    return runs.reopen(Path(folder))
