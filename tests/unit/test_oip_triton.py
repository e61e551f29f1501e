"""Triton's client, unmodified, against our server; in a process of its own, as both define `inference`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import endpoints
import inference
import pytest


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    own = [endpoints.loaded(name, inference.own_model(name)) for name in ("parity", "linear_regression")]
    models, folder = [*endpoints.real_models(), *own], tmp_path_factory.mktemp("metrics")
    with endpoints.serving(models, folder, accept_compressed=True) as running:
        program = [sys.executable, str(Path(__file__).with_name("triton_calls.py")), running.address]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_finds_the_server_and_the_models(seen: dict[str, Any]) -> None:
    assert seen["live"] and seen["ready"] == [True, True, False]
    assert seen["server"]["name"] == "eagerly"
    assert seen["model"]["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "28", "28"]}]


def test_it_reads_labels_scores_and_its_own_id(seen: dict[str, Any]) -> None:
    predictions = endpoints.real_models()[1].model.predict(["A warm film.", "味道一般"])
    assert seen["labels"] == [prediction.labels[0][0] for prediction in predictions]
    assert [max(row) for row in seen["scores"]] == pytest.approx([one.labels[0][1] for one in predictions], rel=1e-5)
    assert seen["id"] == "call-1"
    assert [row.rpartition(":")[2] for row in seen["best"]] == seen["labels"]
    assert seen["images"] == [2, 10]


def test_it_calls_tasks_of_the_users_own(seen: dict[str, Any]) -> None:
    assert seen["own"] == inference.own_model("parity").predict(["1", "0110"])
    assert seen["own_async"] == pytest.approx(inference.own_model("linear_regression").predict([0.5, 2.0]))


def test_it_is_told_which_field_is_wrong(seen: dict[str, Any]) -> None:
    code, message = seen["refusal"]
    assert code == "StatusCode.INVALID_ARGUMENT"
    assert message == "inputs[0].shape[1]: is 9; it must be 28"
