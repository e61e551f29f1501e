"""Where runs are tracked, and which stores several machines can share."""

import subprocess
from pathlib import Path

import pytest

from pipelines import tracking


def test_the_store_is_mlflow_s_own_in_the_working_folder(tracking_store: Path) -> None:
    assert tracking.uri() == f"sqlite:///{tracking_store}/mlflow.db"


@pytest.mark.parametrize("uri", ["sqlite:///somewhere.db", "file:///somewhere", "somewhere"])
def test_a_store_of_one_machine_is_refused_for_workers_on_two(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracking.check_reach(1)
    with pytest.raises(
        ValueError, match=f"2 machines, and the tracking store '{uri}' is a file of one; .*mlflow server"
    ):
        tracking.check_reach(2)


@pytest.mark.parametrize("uri", ["http://tracker:5000", "https://tracker", "postgresql://tracker/mlflow"])
def test_a_server_is_reached_from_every_machine(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracking.check_reach(2)


def test_a_commit_is_named_and_marked_when_files_differ(tmp_path: Path) -> None:
    assert tracking.git_commit(tmp_path) == ""
    _git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("a")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "One")
    clean = tracking.git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "file").write_text("b")
    assert tracking.git_commit(tmp_path) == f"{clean}-dirty"


def _git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
