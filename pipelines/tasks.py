"""The one list of tasks, and how a task's four files are found; standard library only."""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

TASKS = ("classifier", "sentiment", "recommender")
FILES = ("config.py", "data.py", "model.py", "train.py")


@dataclass(frozen=True)
class Task:
    """A folder with config.py, data.py, model.py and train.py, imported only where used."""

    name: str
    package: str
    folder: Path

    @property
    def config(self) -> ModuleType:
        """The flags: a frozen dataclass `Config`."""
        return importlib.import_module(f"{self.package}.config")

    @property
    def data(self) -> ModuleType:
        """The examples: `load(config) -> Data`."""
        return importlib.import_module(f"{self.package}.data")

    @property
    def model(self) -> ModuleType:
        """What training and serving share: `Model`."""
        return importlib.import_module(f"{self.package}.model")

    @property
    def train(self) -> ModuleType:
        """What the loop calls: `PRIMARY`, `loss`, `measure`, `metrics`."""
        return importlib.import_module(f"{self.package}.train")


def find(word: str) -> Task:
    """Finds a task by its name, or a user's own task by its folder.

    Raises ValueError when the word is neither, when a file is missing from the folder, or when the
    folder's name cannot be imported or would hide another module.
    """
    if word in TASKS:
        return Task(word, f"pipelines.{word}", Path(__file__).parent / word)
    folder = Path(word).resolve()
    if not folder.is_dir():
        raise ValueError(f"unknown task {word!r}: it is neither one of {', '.join(TASKS)} nor a folder")
    return _own_task(folder)


def _own_task(folder: Path) -> Task:
    name = folder.name
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise ValueError(f"task folder {str(folder)!r} lacks {', '.join(missing)}; a task has {', '.join(FILES)}")
    if not name.isidentifier() or name in TASKS:
        raise ValueError(
            f"task folder name {name!r} cannot be used: it must be a Python identifier other than {', '.join(TASKS)}"
        )
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    spec = importlib.util.find_spec(name)
    found = [Path(place).resolve() for place in (spec.submodule_search_locations or [])] if spec else []
    if folder not in found:
        raise ValueError(f"task folder name {name!r} is also the name of another Python module; rename the folder")
    return Task(name, name, folder)
