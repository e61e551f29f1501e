"""A task is found by its name or by its folder, and what is wrong with a folder is said."""

import re
import sys
from pathlib import Path

import pytest
from training import PARITY, REGRESSION

from pipelines import loop, tasks
from pipelines.place import Place
from pipelines.settings import Settings


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_task_is_found_by_name(name: str) -> None:
    task = tasks.find(name)
    assert (task.name, task.package) == (name, f"pipelines.{name}")
    assert all((task.folder / file).is_file() for file in tasks.FILES)


@pytest.mark.parametrize("folder", [PARITY, REGRESSION])
def test_a_task_of_ones_own_is_found_by_its_folder_and_imports_its_own_files(folder: str) -> None:
    task = tasks.find(folder)
    assert task.name == Path(folder).name
    assert Path(str(task.config.__file__)).parent == Path(folder)
    assert task.train.PRIMARY
    assert task.model.Model
    assert task.data.load


def test_a_relative_folder_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(PARITY).parent)
    assert tasks.find("./parity").folder == Path(PARITY)


def test_an_unknown_task_is_a_sentence_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown task 'sentimant': it is neither one of classifier, sentiment"):
        tasks.find("sentimant")


def test_a_folder_that_lacks_files_is_a_sentence_that_names_them(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "mytask", ("config.py", "data.py"))
    with pytest.raises(ValueError, match=r"'[^']+/mytask' lacks model\.py, train\.py"):
        tasks.find(str(folder))


def test_a_task_that_lacks_what_training_calls_is_refused_before_any_data_is_read(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "unfinished", tasks.FILES)
    (folder / "train.py").write_text("PRIMARY = 'accuracy'\ndef scored(network, batch): ...\n")
    task = tasks.find(str(folder))
    wanted = (
        "lacks `Config` in config.py, `load` in data.py, `Model` in model.py, `loss` in train.py, `measure` in "
        "train.py, `metrics` in train.py, `tally` in train.py, which has `scored`, `Model.calibrate` in model.py, as "
        "train.py has `scored`"
    )
    with pytest.raises(ValueError, match=re.escape(f"{str(folder)!r} {wanted}")):
        loop.run(task, Settings(), tmp_path / "run", Place())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["my-task", "3d", "café", "classifier"])
def test_a_folder_whose_name_cannot_be_used_is_refused(tmp_path: Path, name: str) -> None:
    folder = _folder(tmp_path, name, tasks.FILES)
    with pytest.raises(ValueError, match=re.escape(f"task folder name {name!r} cannot be used")):
        tasks.find(str(folder))


@pytest.mark.parametrize("name", ["json", "torch", "pipelines"])
def test_a_folder_that_would_hide_a_module_is_refused(tmp_path: Path, name: str) -> None:
    folder = _folder(tmp_path, name, tasks.FILES)
    with pytest.raises(ValueError, match=f"'{name}' is also the name of another Python module; rename the folder"):
        tasks.find(str(folder))


def _folder(parent: Path, name: str, files: tuple[str, ...]) -> Path:
    folder = parent / name
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    return folder
