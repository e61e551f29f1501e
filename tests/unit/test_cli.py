"""The command says what was wrong in one sentence, with exit code 2 and no traceback, and helps at once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training import PARITY, REGRESSION, ROOT

from eagerly.cli import VERBS, main
from pipelines import artifact, registry, tasks, tracking

HELP_SECONDS = 0.5


@pytest.fixture(autouse=True)
def _working_folder(tracking_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("trian", "unknown verb 'trian'; there are train, "),
        ("train sentimant", "unknown task 'sentimant': it is neither one of classifier, sentiment, recommender nor a"),
        ("train classifier --bogus 3", "unrecognized options: --bogus"),
        ("train classifier --epocs 3", "perhaps --epochs; see `eagerly train classifier --help`"),
        ("train classifier --epochs many", "--epochs: invalid literal for int() with base 10: 'many'"),
        ("train classifier --epochs -1", "--epochs is -1; the least allowed is 1"),
        ("train classifier --optimizer newton", "invalid choice 'newton' for argument '--optimizer'"),
        ("train classifier --dataset mnits --local", "invalid choice 'mnits' for argument '--dataset'"),
        ("train classifier --arch alexnot --local", "'alexnot'"),
        ("train classifier --data nowhere --local", "--data 'nowhere' is not a folder"),
        ("train sentiment --data nowhere.csv --local", "nowhere.csv"),
        ("train recommender --ratings nowhere.csv --items nothing.csv --local", "nothing.csv"),
        ("train classifier --local --workers 2", "--local trains in one process; --workers is 2"),
        ("train classifier --local --gpu", "--gpu asks for a GPU and this machine has none"),
        ("train all --run-dir here", "--run-dir names one run's folder"),
        ("train --resume nowhere", "'nowhere' holds no run"),
        ("train --resume", "--resume needs the folder of a run"),
        (f"train {ROOT}/examples --local", "lacks config.py, data.py, model.py, train.py"),
        (f"train {REGRESSION} --local --lr 50", "the loss is "),
        ("inspect --open", "name a task, or a run with --run RUN_DIR"),
        ("inspect parrity", "unknown task 'parrity'"),
        ("inspect --run nowhere", "'nowhere' holds no run"),
        ("inspect classifier --batch nowhere.jsonl --compare amp", "--batch 'nowhere.jsonl' cannot be read"),
        ("inspect classifier --compare speed", "invalid choice 'speed' for argument '--compare'"),
        ("inspect classifier --gpu", "--gpu asks for a GPU and this machine has none"),
        ("models lst", "`eagerly models lst` is not understood; it is `eagerly models list"),
        ("models promote classifier one", "version 'one' is no version number; versions count from 1"),
        ("models show classifier", "no model 'classifier' in sqlite:"),
        ("models promote classifier 3", "no model 'classifier' in sqlite:"),
        ("models rollback classifier", "no model 'classifier' in sqlite:"),
        ("models list classifier", "no model 'classifier' in sqlite:"),
    ],
)
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
def test_a_mistake_is_one_sentence(
    line: str, sentence: str, capsys: pytest.CaptureFixture[str], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    if "--gpu" in line and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    assert main(line.split()) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("eagerly: ")
    assert sentence in last
    assert not [path for path in Path("runs").glob("*") if "--lr" not in line]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> str:
    """A store of this module's own."""
    place = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copy(empty_store, place)
    return f"sqlite:///{place}"


@pytest.mark.parametrize(
    "line", ["--help", "train --help", "train classifier --help", "models --help", "serve --help", "predict --help"]
)
def test_help_takes_less_than_half_a_second_of_processor_time(line: str) -> None:
    command = [sys.executable, "-m", "eagerly", *line.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = process.stdout.read()
        _, code, spent = os.wait4(process.pid, 0)  # of this child alone: other tests may have left some to be reaped
        process.returncode = os.waitstatus_to_exitcode(code)
    assert process.returncode == 0 and "usage" in shown.lower()
    assert spent.ru_utime + spent.ru_stime < HELP_SECONDS


def test_help_names_every_verb_and_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(task in shown for task in tasks.TASKS)


@pytest.mark.parametrize("word", [*tasks.TASKS, PARITY])
def test_help_of_a_task_shows_its_own_flags_and_those_of_every_run(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", word, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    own = {"classifier": "--arch", "sentiment": "--text-column", "recommender": "--ratings"}.get(word, "--longest")
    assert all(flag in shown for flag in (own, "--epochs", "--workers", "--resume", "--local", "--promote"))


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's own use of sqlalchemy
def test_models_are_listed_shown_promoted_and_rolled_back(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert main(["models", "list"]) == 0
    assert "no versions yet\nnext       eagerly train classifier\n" in capsys.readouterr().out
    for accuracy in (0.75, 0.5):
        _register(accuracy)
    assert main(["models", "list"]) == 0
    shown = capsys.readouterr().out
    assert "next       eagerly models show parity 1\n" in shown
    rows = [line.split()[:5] for line in shown.splitlines()[2:]]
    assert rows[1] == ["parity", "1", "champion", "accuracy", "0.7500"]
    assert rows[0][:3] == ["parity", "2", "accuracy"]
    assert main(["models", "show", "parity", "2"]) == 0
    assert "next       eagerly models promote parity 2\n" in capsys.readouterr().out
    assert main(["models", "promote", "parity", "2"]) == 0
    assert "           eagerly models rollback parity\n" in capsys.readouterr().out
    assert main(["models", "show", "parity"]) == 0
    facts = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["version", "2"] in facts and ["test", "accuracy", "0.5000"] in facts
    assert main(["models", "rollback", "parity"]) == 0
    assert capsys.readouterr().out == "parity version 1 is champion again\nnext       eagerly models show parity\n"
    assert main(["models", "promote", "parity", "9"]) == 2
    assert capsys.readouterr().err == "eagerly: parity has no version 9; it has 2, 1\n"


def _register(accuracy: float) -> None:
    tracker = tracking.Tracker("parity", "run")
    digest = artifact.write(Path(f"artifact-{accuracy}"), "parity", _save)
    source = tracker.finish({}, Path(f"artifact-{accuracy}"))
    registry.register("parity", source, tracker.run_id, digest, {"accuracy": accuracy}, "accuracy", "gate")


def _save(folder: Path) -> None:
    save_file({"weight": torch.ones(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"labels": []}))
