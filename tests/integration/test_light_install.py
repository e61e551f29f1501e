"""`pip install .` is a light client: nothing of training or serving comes with it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "ray", "mlflow", "numpy", "pandas", "scipy", "scikit-learn", "transformers", "pyarrow"}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with this project and its plain dependencies alone."""
    folder = tmp_path_factory.mktemp("light")
    source = folder / "source"
    source.mkdir()
    for name in ("eagerly", "pipelines", "services"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    uv = Path(sys.executable).parent / "uv"
    environment = folder / "environment"
    interpreter = environment / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, environment],
        [uv, "pip", "install", "--quiet", "--python", interpreter, source],
    ):
        subprocess.run(command, check=True, cwd=folder)
    return interpreter


def run(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the environment's interpreter away from the checkout."""
    return subprocess.run([python, *words], capture_output=True, text=True, cwd=python.parent, check=False)


def test_the_light_client_brings_nothing_heavy(python: Path):
    uv = Path(sys.executable).parent / "uv"
    listed = subprocess.run(
        [uv, "pip", "list", "--python", python, "--format", "json"], capture_output=True, check=True
    )
    installed = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert {"eagerly", "grpcio", "protobuf"} <= installed
    assert not installed & HEAVY
    assert not [name for name in installed if name.startswith("nvidia")]


def test_the_light_client_can_be_imported_and_says_who_is_not_there(python: Path):
    code = (
        "from eagerly.client import CallError, Client\n"
        "try:\n    Client('127.0.0.1:1', timeout_s=5, wait_for_ready=False).analyze(['hello'])\n"
        "except CallError as error:\n    print(error.code)\n"
    )
    said = run(python, "-c", code)
    assert said.stdout == "UNAVAILABLE\n", said.stderr


def test_the_command_helps_in_the_light_client(python: Path):
    for words in (["--help"], ["predict", "--help"], ["predict", "sentiment", "--help"]):
        said = run(python, "-m", "eagerly", *words)
        assert said.returncode == 0, said.stderr
        assert "usage: eagerly" in said.stdout


def test_a_heavy_verb_says_what_to_install(python: Path):
    said = run(python, "-m", "eagerly", "serve")
    assert said.returncode == 2
    assert "in the checkout, pip install '.[cluster]'" in said.stderr
    assert len(said.stderr.splitlines()) == 1
