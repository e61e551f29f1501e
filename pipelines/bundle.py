"""The code that travels to a cluster: the packages that train, and a user's own task, without what is only here."""

import fnmatch
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
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

    Raises ValueError for no task, for code of more than 200 MB, naming the largest file, and for what cannot be read.
    """
    task = tasks.find(word)
    source = Path(__file__).resolve().parent.parent
    folders = {package: source / package for package in PACKAGES}
    if word not in tasks.TASKS:
        if task.name in PACKAGES:
            raise ValueError(f"task folder name {task.name!r} is that of a package of eagerly; rename the folder")
        folders[task.name] = task.folder
    size_bytes, files = _measure(word, folders)
    with tempfile.TemporaryDirectory(prefix="eagerly-code-") as made_folder:
        folder = Path(made_folder) / "code"
        for name, path in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copy2(path, folder / name)
            except OSError as problem:
                raise _unread(path, problem) from problem
        yield Bundle(folder, word if word in tasks.TASKS else f"./{task.name}", size_bytes, len(files))


def below(folder: Path, is_left: Callable[[str], bool] = lambda name: False) -> Iterator[Path]:
    """Lists what is below a folder but folders, also behind links to folders, unless those lead back to where they are.

    Raises OSError for a folder that cannot be read.
    """
    return _below(folder, is_left, (os.path.realpath(folder),))


def _below(folder: Path, is_left: Callable[[str], bool], above: tuple[str, ...]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if is_left(path.name):
            continue
        if not path.is_dir():
            yield path
        elif (real := os.path.realpath(path)) not in above:
            yield from _below(path, is_left, (*above, real))


def _measure(word: str, folders: dict[str, Path]) -> tuple[int, dict[str, Path]]:
    """Lists the files that travel, by their names in the working folder, and says how many bytes they have."""
    sizes: dict[str, int] = {}
    files: dict[str, Path] = {}
    for name, folder in folders.items():
        path = folder
        try:
            for path in below(folder, _is_left):
                there = f"{name}/{path.relative_to(folder).as_posix()}"
                files[there], sizes[there] = path, path.stat().st_size
        except OSError as problem:
            raise _unread(path, problem) from problem
    size_bytes = sum(sizes.values())
    if size_bytes > MOST_BYTES:
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"the code of {word!r} has {size_bytes / 1e6:.0f} MB, {largest!r} the most of "
            f"it, and {MOST_BYTES >> 20} MB may travel; keep data out of the task folder and give it with --data"
        )
    return size_bytes, files


def _unread(path: Path, problem: OSError) -> ValueError:
    link = " is a link, and" if path.is_symlink() else ""
    why = problem.strerror or str(problem)
    return ValueError(
        f"{problem.filename or str(path)!r}{link} cannot be read ({why}), and the code travels whole; mend or remove it"
    )


def _is_left(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in EXCLUDED)
