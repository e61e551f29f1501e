"""The commands with which a verb ends, to copy: what is likely to be done next."""

import shlex
from pathlib import Path
from typing import TextIO

from pipelines import tasks

LABEL_WIDTH = 10
"""Columns of the facts that most verbs print above."""


def show(*commands: str, width: int = LABEL_WIDTH, file: TextIO | None = None) -> None:
    """Prints commands one below the other, the first beside the word `next`.

    A remark behind ` # ` is for people, and a shell passes it over.
    """
    for number, command in enumerate(commands):
        print(f"{'' if number else 'next':<{width}} {command}", file=file, flush=True)


def task_word(task: str) -> str:
    """Names a task so that a command of this working folder finds it: eagerly's by name, others by their folder."""
    folder = Path(task)
    if task not in tasks.TASKS and folder.is_relative_to(Path.cwd()):
        return shlex.quote(f"./{folder.relative_to(Path.cwd())}")
    return shlex.quote(task)


def pages(uri: str) -> list[str]:
    """Gives the command that shows the runs of a tracking store in files; none for others, which servers show."""
    if not uri.startswith(("sqlite:", "file:", "/")):
        return []
    own = uri == f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    return ["mlflow ui" if own else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"]
