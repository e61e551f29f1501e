"""A file is answered wherever its lines come from, and left at once when its answers have nowhere to go."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bare
import pytest
from bare import Request, Response

from eagerly import cli

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
AT_ONCE_S = 2.0


@pytest.fixture
def address() -> Iterator[str]:
    with bare.serving() as running:
        yield running


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs.jsonl"
    path.write_text('"first"\n"second"\n"third"\n"fourth"\n')
    return path


def words(path: Path | str, address: str, *more: str) -> list[str]:
    return ["predict", "sentiment", "--file", str(path), "--address", address, *more]


def test_a_named_pipe_is_answered(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=['"first"\n"second"\n"third"\n'])
    writer.start()
    assert cli.main(words(tmp_path / "pipe", address)) == 0
    writer.join()
    assert len(capsys.readouterr().out.splitlines()) == 3


@FULL
def test_a_full_disk_is_one_sentence(address: str, inputs: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(words(inputs, address, "--output", "/dev/full")) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "--output /dev/full cannot be written (No space left on device); 0 lines were answered" in said


@FULL
def test_a_full_disk_under_standard_output_is_one_sentence(address: str, inputs: Path):
    with Path("/dev/full").open("w") as full:
        ended = eagerly(words(inputs, address), full)
        _, said = ended.communicate(timeout=20)
    assert ended.returncode == 2
    assert said.splitlines() == [
        "eagerly: standard output cannot be written (No space left on device); 0 lines were answered"
    ]


def eagerly(words: list[str], output: Any) -> "subprocess.Popen[str]":
    quiet = {**os.environ, "GRPC_VERBOSITY": "NONE"}
    command = [sys.executable, "-m", "eagerly", *words]
    return subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True, env=quiet)


class Slow:
    """Answers the first text at once, the second when it is let, and the others when all is over."""

    def __init__(self) -> None:
        self.asked, self.let, self.over = threading.Event(), threading.Event(), threading.Event()

    def answer(self, request: Request, context: Any) -> Response:
        if request.texts[0] == "second":
            self.let.wait(20)
        elif request.texts[0] != "first":
            self.asked.set()
            self.over.wait(20)
        return bare.labelled(request, context)


@pytest.fixture
def slow() -> Iterator[tuple[str, Slow]]:
    made = Slow()
    with bare.serving(made.answer) as address:
        yield address, made
        made.let.set()
        made.over.set()


def test_an_interrupted_file_is_left_at_once(slow: tuple[str, Slow], monkeypatch: pytest.MonkeyPatch):
    address, model = slow
    interrupted: list[float] = []

    class Typed(io.StringIO):
        def __next__(self) -> str:
            if line := self.readline():
                return line
            assert model.asked.wait(10)
            interrupted.append(time.monotonic())
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Typed('"third"\n"fourth"\n'))
    assert cli.main(words("-", address, "--batch", "1", "--timeout-s", "15")) == 130
    assert time.monotonic() - interrupted[0] < AT_ONCE_S


def test_a_reader_that_has_read_enough_is_not_waited_for(slow: tuple[str, Slow], inputs: Path):
    address, model = slow
    running = eagerly(words(inputs, address, "--batch", "1", "--timeout-s", "15"), subprocess.PIPE)
    with running:
        assert running.stdout is not None and '"first"' in running.stdout.readline()
        assert model.asked.wait(10)
        running.stdout.close()
        model.let.set()
        began = time.monotonic()
        assert running.wait(20) == 1
        assert time.monotonic() - began < 2 * AT_ONCE_S  # with the end of a process
        assert running.stderr is not None and running.stderr.read() == ""
