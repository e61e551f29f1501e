"""KServe's client, unmodified, in an environment of its own: it asks for older libraries than ours."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import endpoints
import pytest

ROOT = Path(__file__).resolve().parents[2]
CALLS = Path(__file__).with_name("kserve_calls.py")
LOCK = Path(__file__).with_name("kserve.lock")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with KServe's client."""
    environment, uv = tmp_path_factory.mktemp("kserve"), Path(sys.executable).parent / "uv"
    interpreter = environment / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, environment],
        [uv, "pip", "install", "--quiet", "--require-hashes", "--python", interpreter, "-r", LOCK],
    ):
        subprocess.run(command, check=True)
    return interpreter


@pytest.fixture(scope="module")
def seen(python: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the client saw at first, and what became of its calls while one server took over from another."""
    models, folder = list(endpoints.real_models()), tmp_path_factory.mktemp("metrics")
    config = ROOT / "eagerly" / "service_config.json"
    with contextlib.ExitStack() as stack:
        with endpoints.serving(models, folder / "first") as first:
            process = stack.enter_context(
                subprocess.Popen(
                    [python, CALLS, first.address, config], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(process.kill)
            assert process.stdin is not None and process.stdout is not None
            lines = [process.stdout.readline()]
            stack.enter_context(endpoints.serving(models, folder / "second", port=first.server.port))
        time.sleep(1)
        process.stdin.close()
        lines.append(process.stdout.readline())
    return [json.loads(line) for line in lines]


def test_it_finds_the_server_and_the_models(seen: list[dict[str, Any]]) -> None:
    assert seen[0]["live"] and seen[0]["ready"] == [True, True]


def test_it_reads_raw_and_typed_tensors_and_its_own_id(seen: list[dict[str, Any]]) -> None:
    predictions = endpoints.real_models()[1].model.predict(["A warm film.", "味道一般"])
    assert seen[0]["names"] == ["label", "scores"]
    for name in ("scores", "typed"):
        best = [max(row) for row in seen[0][name]]
        assert best == pytest.approx([one.labels[0][1] for one in predictions], rel=1e-5)
    assert seen[0]["images"] == [[2], [2, 10]]
    assert seen[0]["id"] == "call-1"


def test_it_is_told_which_field_is_wrong(seen: list[dict[str, Any]]) -> None:
    assert seen[0]["refusal"] == ["StatusCode.INVALID_ARGUMENT", "inputs[0].shape[1]: is 9; it must be 28"]


def test_with_our_service_config_it_loses_no_call_when_a_server_takes_over(seen: list[dict[str, Any]]) -> None:
    assert seen[1]["failed"] == []
    assert seen[1]["count"] > 20
