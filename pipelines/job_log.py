"""The lines of a job's log: most are for people, and those that begin with MARK say, as JSON, how the job goes on.

Those for programs are numbered, so no two are equal: that tells where in the log an end of it begins.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

MARK = "@eagerly "
NUMBER = "line"
"""The key of a line's number, counted among those for programs."""
ALL = -1
LEAST, MOST = 20, 1000
"""Bounds of how many new lines are expected."""
WIDER = (1, 20, 400)
"""How many times the lines that are expected are asked for, until what is known is among them."""
BATCH_LINES = 500
MOST_WAITING_BYTES = 1 << 20


def line(said: Mapping[str, Any]) -> str:
    """Writes a line for programs."""
    return MARK + json.dumps(said)


def read(text: str) -> dict[str, Any]:
    """Gives what a line says to programs; nothing where it is for people, or was cut short."""
    if not text.startswith(MARK):
        return {}
    try:
        return json.loads(text.removeprefix(MARK))
    except ValueError:
        return {}


def latest(lines: Iterable[str]) -> dict[str, Any]:
    """Gives what was said to programs last, each fact as of the last line that has it."""
    said: dict[str, Any] = {}
    for text in lines:
        said |= read(text)
    return said


def for_people(lines: Iterable[str]) -> list[str]:
    """Leaves out what is said to programs."""
    return [text for text in lines if not text.startswith(MARK)]


class Writer:
    """Appends lines to a file; what a full disk does not take waits in memory, and goes first when there is room again.

    Once more than MOST_WAITING_BYTES wait, further lines are left out, and a line says how many.
    """

    def __init__(self, file: int) -> None:
        """Takes the number of an open file."""
        self._file, self._waiting, self._left_out = file, bytearray(), 0
        self.problem = ""
        """Why lines wait; empty where none do."""

    @classmethod
    def open(cls, path: Path) -> "Writer":
        """Opens a file for appending. Raises OSError where it cannot be."""
        return cls(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644))

    def write(self, text: str) -> None:
        """Writes a line, or keeps it."""
        line = f"{text}\n".encode(errors="replace")
        if self._left_out or len(self._waiting) + len(line) > MOST_WAITING_BYTES:
            self._left_out += 1
        else:
            self._waiting += line
        self.retry()

    def retry(self) -> None:
        """Writes what waits, as far as there is room."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._file, self._waiting)]
                if self._left_out and not self._waiting:
                    self._waiting += f"{self._left_out} lines are left out, as they could not be written\n".encode()
                    self._left_out = 0
            self.problem = ""
        except OSError as problem:
            self.problem = problem.strerror or str(problem)

    def move(self, path: Path) -> None:
        """Appends what was written to another file, and goes on there. Raises OSError where that is full, and stays."""
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size, at = os.fstat(file).st_size, 0
        try:
            while piece := os.pread(self._file, 1 << 20, at):
                at += os.write(file, piece)
        except OSError:
            os.ftruncate(file, size)
            os.close(file)
            raise
        os.close(self._file)
        self._file = file

    def close(self) -> None:
        """Writes what waits, if there is room, and closes."""
        self.retry()
        os.close(self._file)


class Tail:
    """Reads on in a log of which only an end, so many lines long, can be asked for; gives every line once."""

    def __init__(self, ask: Callable[[int], Iterable[bytes]]) -> None:
        """Begins before the first line; `ask` gives the last lines as of now, in blocks, and all of them for ALL."""
        self._ask = ask
        self._count = 0
        self._numbered = b""
        self._since = 0
        self._expected = LEAST

    def more(self, ended: bool) -> Iterator[list[str]]:
        """Gives what people are shown of the lines that are new, some at a time.

        A last line without its end is left for the next time, unless the log has `ended`. What `ask` raises passes
        through, and what was given until then counts.
        """
        before = self._count
        for lines in self._batches(self._new()):
            if not ended and not lines[-1].endswith(b"\n"):
                lines.pop()
            self._note(lines)
            yield for_people([line.decode(errors="replace").rstrip("\r\n") for line in lines])
        self._expected = min(max(LEAST, 2 * (self._count - before)), MOST)

    def _new(self) -> Iterator[bytes]:
        """Finds the lines behind those that were given: by the last numbered one, else by counting from the first."""
        for times in WIDER if self._numbered else ():
            lines = _lines(self._ask(self._since + times * self._expected))
            if any(line == self._numbered for line in lines):
                return islice(lines, self._since, None)
        return islice(_lines(self._ask(ALL)), self._count, None)

    def _batches(self, lines: Iterator[bytes]) -> Iterator[list[bytes]]:
        while batch := list(islice(lines, BATCH_LINES)):
            yield batch

    def _note(self, lines: list[bytes]) -> None:
        self._count += len(lines)
        self._since += len(lines)
        for behind, line in enumerate(reversed(lines)):
            if NUMBER in read(line.decode(errors="replace")):
                self._numbered, self._since = line, behind
                return


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Cuts blocks into lines, each with its end; the last may lack it."""
    begun: list[bytes] = []
    for block in blocks:
        first, *others = block.split(b"\n")
        begun.append(first)
        for following in others:
            yield b"".join([*begun, b"\n"])
            begun = [following]
    if any(begun):
        yield b"".join(begun)
