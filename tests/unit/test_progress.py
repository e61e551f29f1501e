"""What goes wrong without ending a run is said beside its progress."""

from pathlib import Path

import pytest

from eagerly.commands.progress import Display
from pipelines.journal import Journal


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
