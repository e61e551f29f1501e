"""What a run waits for, and what goes wrong without ending it, is said where its progress is."""

from functools import partial
from pathlib import Path

import pytest

from eagerly.commands.progress import Display
from eagerly.commands.train import _say_waiting
from pipelines import loading
from pipelines.journal import Journal, Reader, note
from pipelines.points import Points


def test_what_went_wrong_and_did_not_end_the_run_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display([tmp_path / "run"]):
        journal = Journal(tmp_path / "run")
        journal.append({"event": "resume", "problems": ["'step-9' lacks 'state.json'"], "inexact": ["has other code"]})
        journal.append({"event": "checkpoint", "step": 3, "problem": "the checkpoint of step 3 cannot be written"})
        journal.append({"event": "checkpoint", "step": 4})
        journal.append({"event": "storage", "problem": "'s3://x' cannot be reached"})
        journal.append({"event": "storage", "problem": ""})
        journal.close()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eagerly:")]
    assert said == [
        "eagerly: run: passed over: 'step-9' lacks 'state.json'",
        "eagerly: run: no longer bit-identical: it has other code",
        "eagerly: run: the checkpoint of step 3 cannot be written",
        "eagerly: run: 's3://x' cannot be reached",
    ]


def test_what_was_compiled_and_where_graphs_break_is_said_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"graphs": 2, "breaks": 1, "recompiles": 0, "reasons": ["data-dependent branch at network.py:7"]}
    with Display([tmp_path / "run"]):
        journal = Journal(tmp_path / "run")
        journal.append({"event": "compiled", "used": False, "why": "the run takes about 8 s"})
        journal.append({"event": "compiled", "used": True, "gain": 1.2, "seconds": 9.0, **found})
        journal.close()
    assert capsys.readouterr().err.splitlines()[:2] == [
        "eagerly: run: torch.compile is not used: the run takes about 8 s",
        "eagerly: run: torch.compile is used; 2 graphs, 1 breaks, 0 recompiles; data-dependent branch at network.py:7",
    ]
    points = Points()
    events = list(Reader(tmp_path / "run").new_events())
    named = {point.name: point.value for event in events for point in points.take(event)}
    assert named["events/compiled"] == 2 and named["compiled/breaks"] == 1 and named["compiled/graphs"] == 2


def test_what_a_run_waits_for_is_its_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "waiting for 4 CPUs: the cluster has 2 CPUs, 1 of them free"
    with Display([tmp_path / "run"]):
        _say_waiting(tmp_path / "run", sentence)
    assert sentence in capsys.readouterr().err


def test_how_far_data_are_read_is_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Display([tmp_path / "run"]), loading.told(partial(note, tmp_path / "run")):
        loading.Pass("first", 20_000, "files")
        loading.Pass("second", 20_000, "files").add(12_000)  # too soon after the first
    assert capsys.readouterr().err.splitlines()[-1].endswith("] reading data, first pass, 0 of 20,000 files")


def test_a_run_starts_its_workers_once_it_has_waited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Display([tmp_path / "run"]):
        _say_waiting(tmp_path / "run", "waiting for 4 CPUs: the cluster has 2 CPUs, 1 of them free")
        _say_waiting(tmp_path / "run", "")
    assert capsys.readouterr().err.splitlines()[-1].endswith("] starting workers")
