"""Every verb, and every verb below one, helps when it is asked to, and touches nothing."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from eagerly import cli, connection
from services import sentiment


def below(verb: str) -> dict[str, object]:
    """The verbs below a verb."""
    return getattr(importlib.import_module(f"eagerly.commands.{verb}"), "VERBS", {})


def lines() -> Iterator[str]:
    """How help can be asked for, also where names stand before."""
    for verb in cli.VERBS:
        for flag in ("--help", "-h"):
            yield f"{verb} {flag}"
            yield from (f"{verb} {one} {names}{flag}" for one in below(verb) for names in ("", "x ", "x 1 "))
    yield from ("record runs/x --help", "tune --resume runs/x --help", "models --help list")


def asked(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    try:
        code = cli.main(line.split())
    except SystemExit as end:
        code = end.code
    shown = capsys.readouterr()
    assert (code, shown.err) == (0, "")
    return shown.out


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("line", [*lines()])
def test_help_is_shown_wherever_it_is_asked_for(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in line.split() if word in cli.VERBS or word in below(line.split()[0])]
    called = " ".join(words[:1] if line.split()[1].startswith("-") else words)
    shown = asked(line, capsys)
    assert shown.startswith(f"usage: eagerly {called}")
    assert len([text for text in shown.splitlines() if text.strip()]) > 1, "the usage, and what it does"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if below(verb)])
def test_help_of_a_verb_is_of_that_verb_alone(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = asked(f"{verb} --help", capsys)
    for one in below(verb):
        assert f"eagerly {verb} {one}" in whole
        others = [other for other in below(verb) if other != one]
        shown = asked(f"{verb} {one} --help", capsys)
        assert not [other for other in others if f"usage: eagerly {verb} {other}" in shown]


def test_the_flags_of_one_verb_of_jobs_are_not_shown_for_another(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, own in {"status": None, "stop": None, "list": None, "logs": "--follow", "wait": "--timeout"}.items():
        shown = asked(f"jobs {verb} --help", capsys)
        assert {flag for flag in ("--follow", "--timeout") if flag in shown} == ({own} if own else set())
        assert "--address" in shown


@pytest.mark.parametrize("line", ["models lst --help", "cluster sideways --help", "jobs cancel --help"])
def test_what_is_no_verb_is_refused_with_those_there_are(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    verb, *_ = line.split()
    said = capsys.readouterr().err
    assert f"is not understood; it is `eagerly {verb} " in said
    assert all(f"`{one}" in said or f"eagerly {verb} {one}" in said for one in below(verb))


def test_only_flags_that_every_task_has_go_with_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    shown = asked("train all --help", capsys)
    assert shown.startswith("usage: eagerly train all") and "--epochs" in shown and "--promote" in shown
    assert "--arch" not in shown
    assert cli.main(["train", "all", "--arch", "resnet18"]) == 2
    assert "unrecognized options: --arch, resnet18; see `eagerly train all --help`" in capsys.readouterr().err


TASKED = ("train", "tune", "submit", "inspect")


@pytest.mark.parametrize(
    "line", [*(f"{verb} {task}" for verb in TASKED for task in ("classifier", "sentiment", "recommender")), "serve"]
)
def test_a_flag_that_turns_something_off_says_what_is_done_without_it(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = asked(f"{line} --help", capsys)
    for flag in {*re.findall(r"--no-[a-z][\w-]*", shown)}:
        place = shown.index(flag)
        about = (
            " ".join(re.sub("[│\n]", " ", shown[place : place + 600]).split()).removeprefix(flag).split("(default")[0]
        )
        assert flag in about, f"{flag} {about}"
        assert not about.strip().startswith("Whether"), f"{flag} {about}"


def test_the_longest_text_that_the_service_takes_is_told_where_a_longer_one_is_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert f"{sentiment.MOST_CHARACTERS:,} characters" in " ".join(asked("train sentiment --help", capsys).split())


def test_the_connections_that_predict_takes_at_most_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(re.sub("[│\n]", " ", asked("predict sentiment --help", capsys)).split())
    assert f"on up to {connection.MOST_CONNECTIONS} connections" in shown
