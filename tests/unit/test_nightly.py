"""The night goes on after a failure, ends what does not end, and keeps what every part found."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.nightly import Task, main, night, report, tasks

KEEPS = "import json, pathlib; pathlib.Path('steady.json').write_text(json.dumps({'lost': 0})); print('nothing lost')"


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results, in which parts run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_failure_ends_neither_the_night_nor_its_results(results: Path):
    (results / "broken.json").write_text("{}")
    failing = Task("broken", python("print('lost one'); raise SystemExit(1)"), 60)
    outcomes = night([failing, Task("steady", python(KEEPS), 60, seed=7)], results)
    assert [(one.name, one.code, one.said, one.seed, one.figures) for one in outcomes] == [
        ("broken", 1, "lost one", None, None),
        ("steady", 0, "nothing lost", 7, {"lost": 0}),
    ]
    kept = json.loads((results / "nightly.json").read_text())
    assert [(one["name"], one["code"], one["figures"]) for one in kept] == [
        ("broken", 1, None),
        ("steady", 0, {"lost": 0}),
    ]
    broken, steady = report(outcomes).splitlines()[2:]
    assert broken.split()[:3] == ["broken", "failed", "1"]
    assert steady.split()[:3] == ["steady", "passed", "0"]


def test_a_part_that_does_not_end_is_ended_and_has_failed(results: Path):
    sleeps = "import time; print('asleep', flush=True); time.sleep(100)"
    (outcome,) = night([Task("sleeper", python(sleeps), 1.0)], results)
    assert outcome.code != 0
    assert outcome.seconds < 50


@pytest.mark.parametrize("quick", [False, True])
def test_every_part_knows_the_flags_it_is_given(quick: bool):
    listed = tasks(quick, 20260101)
    names = "fuzz ledger soak attacks swap tracker_outage kills elastic elastic orphans"
    assert [task.name for task in listed] == names.split()
    assert all("--seed" in task.command for task in listed if task.seed is not None)


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_says_whether_a_part_failed(results: Path, code: int):
    listed = [Task("one", python(f"exit({code})"), 60), Task("other", python("exit(0)"), 60)]
    assert main([], lambda quick, seed: listed, results) == code
