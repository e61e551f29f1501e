"""`eagerly record` and `eagerly tune` refuse what cannot be with one sentence, before anything heavy is started."""

from pathlib import Path

import pytest

from eagerly.cli import main
from pipelines import tasks, trials
from pipelines.settings import Launch


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["record", "nowhere"], "'nowhere' holds no run: there is no run.json in it"),
        (["record", "--all"], "unknown flag '--all'; `eagerly record` takes folders of runs alone"),
        (["tune", "--resume", "nowhere"], "'nowhere' holds no search: there is no tune.json in it"),
        (["tune", "sentiment", "--resume", "nowhere"], "'nowhere' holds no search: there is no tune.json in it"),
        (
            ["tune", "--resume", "nowhere", "--trials", "60", "--parall", "4"],
            "a search that is resumed goes on as it was begun: unrecognized options: --trials",
        ),
        (
            ["tune", "sentiment", "--lr", "1", "--resume", "nowhere"],
            "a search that is resumed goes on as it was begun: unrecognized options: --lr",
        ),
        (["tune", "--trials"], "`eagerly tune` needs a task, or --resume with the folder of a search"),
        (["tune", "classifier", "--trials", "0"], "--trials is 0; the least allowed is 1"),
        (["tune", "classifier", "--gpu-share", "2"], "--gpu-share is 2.0; it must be above 0 and at most 1"),
        (["tune", "classifier", "--set", "warmth=uniform(0,1)"], "the search space names 'warmth', which is no"),
        (["tune", "classifier", "--space", "none.json"], "--space 'none.json' cannot be read"),
        (["train", "classifier", "--tracker-patience", "-1"], "--tracker-patience is -1.0; it must be finite"),
    ],
)
def test_what_cannot_be_is_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"eagerly: {sentence}") and shown.count("\n") == 1
    assert not Path("runs").exists()


def test_a_search_is_not_resumed_as_another_task_s(capsys: pytest.CaptureFixture[str]) -> None:
    config = tasks.find("sentiment").config.Config()
    trials.create("sentiment", config, Launch(run_dir="searched"), trials.Search())
    assert main(["tune", "classifier", "--resume", "searched"]) == 2
    assert capsys.readouterr().err == "eagerly: 'searched' is a search of sentiment, not of classifier\n"


@pytest.mark.parametrize("verb", ["record", "tune"])
def test_help_is_shown(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: eagerly {verb} ")
