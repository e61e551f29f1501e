"""The steps that make the client's image, run as its build runs them, in folders of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ("deploy/install.sh", "deploy/sbom.py", "deploy/prune_cuda.py", "requirements.lock", "requirements-client.lock")
STATUS = "Package: dash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 0.5.12-2\n"
PROJECT = ("pyproject.toml", "README.md", "LICENSE", "eagerly", "pipelines", "services")


@pytest.fixture
def laid_out(tmp_path: Path) -> Path:
    """The files of the build's context, where the Dockerfile puts them."""
    for names, folder in ((BUILD, "build"), (PROJECT, "src")):
        (tmp_path / folder).mkdir()
        for name in names:
            source, target = ROOT / name, tmp_path / folder / Path(name).name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
    (tmp_path / "build" / "dpkg-status").write_text(STATUS)
    (tmp_path / "python3.11").symlink_to(sys.executable)
    return tmp_path


def install(place: Path) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        "BUILD": str(place / "build"),
        "TARGET": str(place / "eagerly"),
        "PATH": f"{place}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["sh", place / "build" / "install.sh", "client"]
    return subprocess.run(command, cwd=place / "src", env=environment, capture_output=True, text=True, check=False)


def test_the_clients_image_holds_the_client_a_list_of_contents_and_no_installer(laid_out: Path) -> None:
    done = install(laid_out)
    assert done.returncode == 0, done.stderr
    command = laid_out / "eagerly" / "bin" / "eagerly"
    said = subprocess.run([command, "predict", "--help"], capture_output=True, text=True, check=False)
    assert said.returncode == 0 and "eagerly predict sentiment" in said.stdout
    told = json.loads((laid_out / "eagerly" / "sbom.cdx.json").read_text())
    (shell,) = [one for one in told["components"] if one["purl"].startswith("pkg:deb/")]
    told["components"].remove(shell)
    assert (shell["name"], shell["version"]) == ("dash", "0.5.12-2")
    names = {component["name"] for component in told["components"]}
    locked = re.findall(r"^([\w-]+)==", (ROOT / "requirements-client.lock").read_text(), re.MULTILINE)
    assert names == set(locked)
    assert all(component["externalReferences"] for component in told["components"])
    python = laid_out / "eagerly" / "bin" / "python"
    for module in ("pip", "setuptools"):
        assert subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 1


def test_a_package_that_is_not_the_locked_one_ends_the_build(laid_out: Path) -> None:
    lock = laid_out / "build" / "requirements-client.lock"
    lock.write_text(re.sub("sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, lock.read_text()))
    done = install(laid_out)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
