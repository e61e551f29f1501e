"""What a verb ends with: commands that can be copied, that exist, and that fit what came of it."""

import importlib
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from training import PARITY, REGRESSION

from eagerly import steps
from eagerly.cli import VERBS, main
from eagerly.commands import record, train
from pipelines import runs, tasks, tracking
from pipelines.settings import Launch


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def result(word: str, champion: bool, uri: str = "") -> dict[str, Any]:
    """What the recorder says of a run, as far as it matters here."""
    task = tasks.find(word)
    run = runs.create(word, task, task.config.Config(), Launch())
    version = {"name": task.name, "version": 3, "champion": champion}
    return {"run_dir": str(run.folder), "version": version, "uri": uri or tracking.uri()}


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The commands that were printed, each of which must be one that there is."""
    lines = capsys.readouterr().out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("next "))
    commands = [line.removeprefix("next").strip() for line in lines[place:]]
    for words in map(shlex.split, commands):
        if words[0] == "eagerly":
            verbs = getattr(importlib.import_module(f"eagerly.commands.{words[1]}"), "VERBS", {})
            assert words[1] in VERBS and (not verbs or words[2] in verbs)
    assert 1 <= len(commands) <= 3
    return commands


def test_a_new_champion_is_served_and_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    train.say_next([result("sentiment", True)])
    assert shown(capsys) == ["eagerly serve sentiment", "eagerly models show sentiment 3", "mlflow ui"]


def test_a_version_that_the_gate_refused_is_looked_at_and_can_be_promoted(capsys: pytest.CaptureFixture[str]) -> None:
    train.say_next([result("sentiment", False, "http://mlflow:5000")])
    assert shown(capsys) == ["eagerly models show sentiment 3", "eagerly models promote sentiment 3"]


def test_a_task_of_ones_own_is_served_by_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.say_next([result(PARITY, True, "http://mlflow:5000")])
    assert shown(capsys) == [f"eagerly serve {PARITY}", "eagerly models show parity 3"]
    shutil.copytree(PARITY, tmp_path / "parity")
    assert steps.task_word(str(tmp_path / "parity")) == "./parity"


def test_several_new_versions_are_served_together(capsys: pytest.CaptureFixture[str]) -> None:
    train.say_next([result("sentiment", True), result("classifier", False), result("recommender", True)])
    assert shown(capsys) == ["eagerly serve sentiment recommender", "eagerly models list", "mlflow ui"]


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("sqlite:////data/my runs.db", ["mlflow ui --backend-store-uri 'sqlite:////data/my runs.db'"]),
        ("http://mlflow:5000", []),
        ("postgresql://ann:secret@db/mlflow", []),
    ],
)
def test_the_pages_of_a_store_in_files_alone_need_a_command(uri: str, command: list[str]) -> None:
    assert steps.pages(uri) == command


def test_runs_and_searches_that_did_not_end_are_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "searched").mkdir()
    (tmp_path / "searched" / "tune.json").write_text(json.dumps({}))
    record._say_next([], ["runs/one", str(tmp_path / "searched")])
    assert shown(capsys) == ["eagerly train --resume runs/one", f"eagerly tune --resume {tmp_path}/searched"]


def test_an_inspection_ends_with_its_page_and_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", REGRESSION, "--compare", "amp", "--batches", "0", "--out", "seen"]) == 0
    page = (Path("seen") / "inspection.html").resolve()
    assert page.is_file()
    assert shown(capsys) == [f"python3 -m webbrowser {page.as_uri()}", f"eagerly train {REGRESSION}"]


def test_a_token_ends_with_the_endpoint_that_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", "new", "ann", "--permissions", "*"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1, "the token alone"
    assert said.err.endswith("next       eagerly serve --tokens tokens\n")
