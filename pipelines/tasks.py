"""The one list of tasks, and how a task's four files are found; standard library only."""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

TASKS = ("classifier", "sentiment", "recommender")
FILES = ("config.py", "data.py", "model.py", "train.py")
NEEDED = (
    ("config", "Config"),
    ("data", "load"),
    ("model", "Model"),
    *(("train", name) for name in ("PRIMARY", "loss", "measure", "metrics")),
)
"""What training calls, by the file that it is in."""


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

    def check(self) -> None:
        """Raises ValueError where the files lack what training calls, before it would be missed at the end of a run."""
        lacking = [f"`{name}` in {file}.py" for file, name in NEEDED if not hasattr(getattr(self, file), name)]
        if hasattr(self.train, "scored"):
            if not hasattr(self.train, "tally"):
                lacking.append("`tally` in train.py, which has `scored`")
            if not hasattr(getattr(self.model, "Model", None), "calibrate"):
                lacking.append("`Model.calibrate` in model.py, as train.py has `scored`")
        if lacking:
            raise ValueError(f"task folder {str(self.folder)!r} lacks {', '.join(lacking)}")


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
    if not (name.isascii() and name.isidentifier()) or name in TASKS:
        raise ValueError(
            f"task folder name {name!r} cannot be used: it must be an ASCII Python identifier other than "
            f"{', '.join(TASKS)}"
        )
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    spec = importlib.util.find_spec(name)
    found = [Path(place).resolve() for place in (spec.submodule_search_locations or [])] if spec else []
    if folder not in found:
        raise ValueError(f"task folder name {name!r} is also the name of another Python module; rename the folder")
    return Task(name, name, folder)
