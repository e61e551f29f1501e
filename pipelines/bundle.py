"""The code that travels to a cluster: the packages that train, and a user's own task, without what is only here."""

import fnmatch
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines import tasks

PACKAGES = ("eagerly", "pipelines")
EXCLUDED = (
    "__pycache__", "*.pyc", ".*", "venv", "node_modules", "*.egg-info",
    "runs", "mlruns", "mlartifacts", "mlflow.db*", "tensorboard", "wandb",
)  # fmt: skip
"""Names, at any depth, of what is not needed to train: caches, environments, repositories, and what runs leave."""
MOST_BYTES = 200 << 20


@dataclass(frozen=True)
class Bundle:
    """A working folder, whole."""

    folder: Path
    word: str
    """The task as the cluster knows it."""
    size_bytes: int
    file_count: int

    def describe(self) -> str:
        """Says how much it is."""
        return f"{self.file_count} files, {self.size_bytes / 1e6:.1f} MB"


@contextmanager
def made(word: str) -> Iterator[Bundle]:
    """Gathers the code for a task in a folder that is there while the block runs, from a checkout or a wheel.

    Raises ValueError for no task, and for code of more than 200 MB, naming the largest file.
    """
    task = tasks.find(word)
    source = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="eagerly-code-") as made_folder:
        folder = Path(made_folder) / "code"
        for package in PACKAGES:
            shutil.copytree(source / package, folder / package, ignore=_leave)
        if word not in tasks.TASKS:
            if task.name in PACKAGES:
                raise ValueError(f"task folder name {task.name!r} is that of a package of eagerly; rename the folder")
            shutil.copytree(task.folder, folder / task.name, ignore=_leave)
        files = [path for path in folder.rglob("*") if path.is_file()]
        size_bytes = sum(path.stat().st_size for path in files)
        if size_bytes > MOST_BYTES:
            largest = max(files, key=lambda path: path.stat().st_size)
            raise ValueError(
                f"the code of {word!r} has {size_bytes / 1e6:.0f} MB, {str(largest.relative_to(folder))!r} the most of "
                f"it, and {MOST_BYTES >> 20} MB may travel; keep data out of the task folder and give it with --data"
            )
        yield Bundle(folder, word if word in tasks.TASKS else f"./{task.name}", size_bytes, len(files))


def _leave(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in EXCLUDED)}
