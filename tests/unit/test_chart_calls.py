"""What `helm test` calls, against real endpoints that are locked with what the chart's hook makes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import endpoints
import pytest

FILES = Path(__file__).resolve().parents[2] / "helm" / "eagerly" / "files"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the generated certificate and tokens, as the Pod of `helm test` mounts them."""
    monkeypatch.setenv("DNS_NAMES", '["localhost"]')
    hook = _program("make_secrets")
    for folder, maker in (("tls", hook.tls), ("tokens", hook.tokens)):
        (tmp_path / folder).mkdir()
        for name, content in maker("eagerly-x").items():
            (tmp_path / folder / name).write_bytes(content)
    return tmp_path


def _program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def calls(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(FILES / "call_services.py"), *words]
    environment = {**os.environ, "PYTHONPATH": str(FILES.parents[2]), **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_each_service_answers_health_a_prediction_and_its_metrics(made: Path, tmp_path: Path):
    lock = {"tls_cert": made / "tls/tls.crt", "tls_key": made / "tls/tls.key", "tokens": made / "tokens/tokens"}
    with endpoints.serving(list(endpoints.real_models()), tmp_path / "figures", **lock) as endpoint:
        metrics = endpoint.metrics.removeprefix("http://").removesuffix("/metrics")
        places = f"{endpoint.address},{metrics}"
        words = [f"{task}={places}" for task in ("classifier", "sentiment", "recommender")]
        token = (made / "tokens/client").read_text()
        answered = calls(*words, CALLS_TLS=str(made), EAGERLY_TOKEN=token)
        assert answered.returncode == 0, answered.stdout + answered.stderr
        assert answered.stdout.count("health, prediction and metrics are there") == 3
        assert "sentiment version 7: answered" in answered.stdout

        unknown = calls(words[0], CALLS_TLS=str(made), EAGERLY_TOKEN="eagerly_wrong")
        assert unknown.returncode == 1
        assert "UNAUTHENTICATED" in unknown.stdout
        nobody = calls(words[0], CALLS_TLS=str(made / "tokens"), EAGERLY_TOKEN=token)
        assert nobody.returncode == 1, "a certificate of an authority that is not known"


def test_what_answers_no_metrics_fails_the_test(tmp_path: Path):
    with endpoints.serving([endpoints.real_models()[0]], tmp_path / "figures") as endpoint:
        answered = calls(f"classifier={endpoint.address},{endpoint.address}")
        assert answered.returncode == 1
        assert f"classifier at {endpoint.address}: BadStatusLine" in answered.stdout
