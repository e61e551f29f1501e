"""The README's commands, run as a newcomer would, on data of one's own."""

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import ray
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def blocks(section: str, language: str = "bash") -> list[str]:
    """The fenced blocks of a section of the README."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def lines(section: str) -> list[str]:
    return [line for block in blocks(section) for line in block.splitlines() if line.strip()]


@dataclass
class Workspace:
    """A newcomer's folder, and the shell they type into."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, line: str, seconds: float = 240) -> str:
        words = shlex.split(line)
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, line: str, until: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            shlex.split(line), cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for output in process.stdout:
            if until in output:
                return process
        raise AssertionError(f"{line} ended with {process.wait()}")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Workspace:
    folder = tmp_path_factory.mktemp("newcomer")
    _reviews(folder / "reviews.csv")
    _photos(folder / "photos")
    _ratings(folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    address = ray.get_runtime_context().gcs_address
    tools = Path(os.environ.get("EAGERLY_TOOLS", Path.home() / ".cache" / "eagerly-tools")) / "bin"
    environment = {
        **{key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"], str(tools)]),
        "RAY_ADDRESS": address,
        "EAGERLY_HOME": str(folder / "home"),
    }
    return Workspace(folder, environment)


def _reviews(path: Path) -> None:
    moods = {"5": ("fresh", "lovely", "superb"), "1": ("cold", "awful", "rude"), "3": ("okay", "plain", "usual")}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "stars"])
        for visit in range(40):
            for stars, words in moods.items():
                writer.writerow([f"The food was {words[visit % 3]}, visit {visit}", stars])


def _photos(folder: Path) -> None:
    for label, grey in (("cat", 60), ("dog", 190)):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (40, 36), (grey + number, grey, grey - number)).save(folder / label / f"{number}.png")


def _ratings(folder: Path) -> None:
    with (folder / "ratings.csv").open("w") as file:
        file.write("user_id,book_id,rating\n")
        for user in range(60):
            for step in range(12):
                file.write(f"{user},{(user % 2) * 30 + (user + step) % 30},5\n")
    with (folder / "items.csv").open("w") as file:
        file.write("book_id,title,authors,genres\n")
        for book in range(60):
            file.write(f"{book},Book {book},Author {book // 30},{'crime' if book < 30 else 'romance'}\n")


@pytest.fixture(scope="module")
def trained(workspace: Workspace) -> dict[str, str]:
    """What each training command of the README printed."""
    commands = lines("Train on your own data")
    assert len(commands) == 3
    return {line.split()[2]: workspace.run(f"{line} --epochs 3") for line in commands}


@pytest.fixture(scope="module")
def served(workspace: Workspace, trained: dict[str, str]) -> Iterator[Workspace]:
    """The README's `eagerly serve`, until the module's tests are done; then Ctrl-C, and a clean end."""
    line = lines("Serve and call")[0]
    assert line.startswith("eagerly serve")
    process = workspace.start(line, "ready")
    yield workspace
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


def test_training_on_ones_own_data_registers_a_version(trained: dict[str, str]) -> None:
    for task, output in trained.items():
        assert re.search(rf"model version +{task} 1, champion, as there was none", output), output


def test_a_bare_mlflow_ui_shows_the_runs(workspace: Workspace, trained: dict[str, str]) -> None:
    (line,) = blocks("See the runs")[0].splitlines()
    process = subprocess.Popen([*shlex.split(line), "--port", "5057"], cwd=workspace.folder, env=workspace.environment)
    try:
        url = "http://127.0.0.1:5057/api/2.0/mlflow/registered-models/search"
        assert b"champion" in _fetch(url)
    finally:
        process.terminate()
        process.wait(30)


def _fetch(url: str, seconds: float = 90) -> bytes:
    ends = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return reply.read()
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.5)


def test_versions_are_listed_promoted_and_rolled_back(workspace: Workspace, trained: dict[str, str]) -> None:
    again = lines("Train on your own data")[0]
    workspace.run(f"{again} --epochs 1 --promote always")
    listed, shown, promoted, rolled_back = (workspace.run(line) for line in blocks("See the runs")[1].splitlines())
    assert re.search(r"sentiment +2 +champion", listed)
    assert "test accuracy" in shown
    assert "sentiment version 1 is champion" in promoted
    assert "sentiment version 2 is champion again" in rolled_back


def test_every_service_answers_the_command_line(served: Workspace) -> None:
    sentiment, classifier, recommender = blocks("Serve and call")[1].splitlines()
    assert "stars" not in served.run(sentiment)
    assert re.search(r"cat/1.png +cat", served.run(classifier))
    assert "Book" in served.run(recommender)


def test_the_python_client_answers(served: Workspace) -> None:
    (program,) = blocks("Serve and call", "python")
    output = served.run(shlex.join([sys.executable, "-c", program]))
    assert "Label(label=" in output
    assert "texts[1]" in output
    assert "Item(item_id=" in output


def test_tritons_client_answers(served: Workspace) -> None:
    (program,) = blocks("Open Inference", "python")
    assert "[[0." in served.run(shlex.join([sys.executable, "-c", program]))


def test_grpcurl_calls_with_nothing_but_reflection(served: Workspace) -> None:
    if shutil.which("grpcurl", path=served.environment["PATH"]) is None:
        pytest.skip("no grpcurl on this machine")
    assert '"label"' in served.run(blocks("Serve and call")[2].strip())


def test_a_task_of_ones_own_is_trained_and_registered(workspace: Workspace) -> None:
    (line,) = lines("Write your own task")
    assert re.search(r"model version +parity 1, champion", workspace.run(f"{line} --epochs 1"))
