"""A terminal is shown how far a file is, and what is no terminal is shown nothing."""

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from eagerly.commands import bulk


class Terminal:
    """Both ends of a pseudo-terminal: what a program writes to, and what a person sees."""

    def __init__(self) -> None:
        self._end, other = os.openpty()
        self.stream: TextIO = os.fdopen(other, "w")

    def lines(self) -> list[str]:
        """Closes the terminal; gives what was drawn one over the other, with each end of line as it was written."""
        self.stream.close()
        drawn = b""
        with contextlib.suppress(OSError):  # Linux's way to say that all was read
            while part := os.read(self._end, 65_536):
                drawn += part
        return drawn.decode().replace("\r\n", "\n").split("\r")[1:]

    def close(self) -> None:
        self.stream.close()
        os.close(self._end)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    yield opened
    opened.close()


def answer(folder: Path, path: str = "") -> None:
    """Answers three lines, one a call, or what another path holds."""
    (folder / "inputs.jsonl").write_text('"text"\n\n' * 3)
    work = bulk.Bulk(str, list, lambda text: {"text": text}, 1, 1)
    bulk.answer(path or str(folder / "inputs.jsonl"), str(folder / "results.jsonl"), work)


def test_a_terminal_sees_the_bar_grow_to_its_end(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setattr(bulk, "BAR_EVERY_S", 0.0)
    answer(tmp_path)
    *drawn, last = terminal.lines()
    shown = [re.fullmatch(r"\[(#*) *\] (\d) of 3 lines, [\d,]+ a second +", line) for line in drawn]
    assert [(len(one[1]), one[2]) for one in shown if one] == [(10, "1"), (20, "2"), (30, "3")] and all(shown)
    assert re.fullmatch(r"\[#{30}\] 3 of 3 lines, [\d,]+ a second +\n", last)


def test_the_bar_is_drawn_a_few_times_a_second_and_at_the_end(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setattr(bulk, "BAR_EVERY_S", 3600.0)
    answer(tmp_path)
    (last,) = terminal.lines()
    assert "3 of 3 lines" in last


def test_what_comes_from_another_program_is_counted(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{json.dumps(text)}\n" for text in "abcd")))
    answer(tmp_path, "-")
    assert re.fullmatch(r"4 lines, [\d,]+ a second +\n", terminal.lines()[-1])


def test_a_shorter_bar_hides_all_of_a_longer_one(terminal: Terminal):
    bar = bulk.Bar(None, terminal.stream)
    bar.show(10**12, last=True)
    bar.show(1, last=True)
    longer, shorter = terminal.lines()
    assert len(shorter) >= len(longer) and shorter.startswith("1 lines")


def test_what_is_no_terminal_is_shown_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    answer(tmp_path)
    assert capsys.readouterr().err == ""
