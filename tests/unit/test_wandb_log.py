"""A run in Weights & Biases' own offline files, and the sentence where the package is not there."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from eagerly.cli import main
from pipelines import runs, tasks
from pipelines.journal import Journal
from pipelines.settings import Launch

ROOT = Path(__file__).resolve().parents[2]
COPY = """
import json, sys
from pathlib import Path
from pipelines.journal import Reader
from pipelines.wandb_log import Copy
folder = Path(sys.argv[1])
copy = Copy(folder, json.loads((folder / "run.json").read_text()), "offline")
copy.take(list(Reader(folder).new_events()))
copy.close(failed=False)
"""
READ = """
import json, struct, sys
from wandb.proto.wandb_internal_pb2 import Record
data, at, part, rows, ids = open(sys.argv[1], "rb").read(), 7, b"", [], []
while at + 7 <= len(data):  # LevelDB's log format: blocks of 32 KiB, records whole or in parts, after W&B's own header
    if 32768 - at % 32768 < 7:
        at += 32768 - at % 32768
        continue
    _, length, kind = struct.unpack("<IHB", data[at : at + 7])
    part, at = part + data[at + 7 : at + 7 + length], at + 7 + length
    if kind in (1, 4):
        record, part = Record.FromString(part), b""
        if record.HasField("history"):
            row = {one.key or one.nested_key[0]: json.loads(one.value_json) for one in record.history.item}
            rows += [[row["step"], row["train/loss"]]] if "train/loss" in row else []
        if record.HasField("run"):
            ids.append([record.run.run_id, record.run.project])
print(json.dumps({"rows": rows, "ids": ids}))
"""


def _python(*words: str) -> str:
    done = subprocess.run([sys.executable, "-c", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_offline_files_hold_each_step_once_over_restarts(tmp_path: Path) -> None:
    task = tasks.find("classifier")
    run = runs.create("classifier", task, task.config.Config(), Launch(local=True), tmp_path / "run")
    journal = Journal(run.folder)
    journal.append({"event": "start", "step": 0})
    for first in (0, 2, 1):  # the last as a resumed run takes them again
        losses = [1.0 - 0.1 * step for step in (first, first + 1)]
        speed = {"lr": 0.1, "examples_per_second": 5.0}
        journal.append({"event": "steps", "first": first, "losses": losses, **speed})
        _python(COPY, str(run.folder))
    journal.close()
    (file,) = (run.folder / "wandb").glob("offline-run-*/*.wandb")
    found = json.loads(_python(READ, str(file)))
    assert found["rows"] == [[step, pytest.approx(1.0 - 0.1 * step)] for step in range(4)]
    key = json.loads((run.folder / "run.json").read_text())["id"]
    assert found["ids"][0] == [key, "eagerly-classifier"]


def test_without_the_package_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    assert main(["train", "classifier", "--local", "--wandb", "offline"]) == 2
    said = "--wandb offline needs the package wandb; in the checkout, pip install '.[wandb]', or leave --wandb out"
    assert capsys.readouterr().err.strip() == f"eagerly: {said}"
    assert not (tmp_path / "runs").exists()
