"""`eagerly predict --file`: a file of inputs, a line each, answered in batches, several at a time, in order."""

import contextlib
import json
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from eagerly.contract import CallError

Read = Callable[[Any], Any]
"""Turns what a line holds into what the client takes; raises ValueError with what is wrong."""
Ask = Callable[[list[Any]], list[Any]]
"""Makes one call for several inputs; gives a result for each."""
Write = Callable[[Any], dict[str, Any]]
"""Turns a result into what its line of JSON holds."""

MOST_TRIES = 12
"""Calls for the same inputs while the endpoint is full, the first included."""
MOST_WAIT_S = 10.0
"""Longest wait between two of them, unless the endpoint asks for a longer one: two minutes and a half together."""
TOO_MUCH = ("TOO_LARGE", "TOO_MANY_ITEMS")
"""Reasons for which a call is refused that may be answered in smaller ones."""
BAR_EVERY_S = 0.2
BAR_WIDTH = 30


class Bulk:
    """Answers the lines of a file; memory holds what is in flight alone."""

    def __init__(
        self,
        read: Read,
        ask: Ask,
        write: Write,
        batch: int,
        concurrency: int,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes the service's three steps; batch: inputs of a call. concurrency: calls at a time.

        give_up: ends the calls in flight, so that none is waited for whose answer nobody will read.

        Raises ValueError for numbers out of range.
        """
        for name, value, most in (("batch", batch, 1024), ("concurrency", concurrency, 256)):
            if not 1 <= value <= most:
                raise ValueError(f"--{name} is {value}; it must be 1 to {most}")
        self._read, self._ask, self._write = read, ask, write
        self._batch, self._concurrency, self._give_up = batch, concurrency, give_up
        self._ended = threading.Event()
        self.done_count = self.bad_count = 0

    def run(self, lines: Iterable[str], output: TextIO, bar: "Bar") -> None:
        """Writes a line of JSON for each line of input, in order, with its number; a bad one tells its error.

        A call that is too large is made in halves. Raises CallError when the endpoint does not answer a call, or is
        full for too long; what was answered before has been written.
        """
        waiting: deque[tuple[list[dict[str, Any]], Future[list[Any]]]] = deque()
        with ThreadPoolExecutor(self._concurrency) as pool:
            try:
                for heads, inputs in self._batches(lines):
                    waiting.append((heads, pool.submit(self._answers, inputs) if inputs else _nothing()))
                    while len(waiting) > 2 * self._concurrency or (waiting and waiting[0][1].done()):
                        self._put(*waiting.popleft(), output, bar)
                while waiting:
                    self._put(*waiting.popleft(), output, bar)
            except BaseException:
                self._ended.set()
                pool.shutdown(wait=False, cancel_futures=True)
                self._give_up()
                raise

    def _answers(self, inputs: list[Any]) -> list[Any]:
        """Gives a result for each input, or the CallError of one that is too large by itself."""
        try:
            return self._call(inputs)
        except CallError as error:
            if not _is_too_much(error):
                raise
            half = len(inputs) // 2
            return [*self._answers(inputs[:half]), *self._answers(inputs[half:])] if half else [error]

    def _call(self, inputs: list[Any]) -> list[Any]:
        """Makes a call, again while the endpoint is full: after as long as it asks for, twice as long each time."""
        tried = 0
        while True:
            try:
                return self._ask(inputs)
            except CallError as error:
                tried, told_s = tried + 1, error.retry_after_s
                if told_s is None or tried == MOST_TRIES:
                    raise
                wait_s = max(told_s, min(MOST_WAIT_S, told_s * 2 ** (tried - 1)))
                if self._ended.wait(wait_s * random.uniform(1.0, 1.25)):  # not all calls at once
                    raise

    def _batches(self, lines: Iterable[str]) -> Iterator[tuple[list[dict[str, Any]], list[Any]]]:
        """Yields the heads of some lines, and the inputs of those that are good; blank lines are passed over."""
        heads: list[dict[str, Any]] = []
        inputs: list[Any] = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            head: dict[str, Any] = {"line": number}
            try:
                inputs.append(self._read(_parsed(line)))
            except ValueError as problem:
                head["error"] = {"code": "INVALID_ARGUMENT", "message": str(problem)}
            heads.append(head)
            if len(heads) == self._batch:
                yield heads, inputs
                heads, inputs = [], []
        if heads:
            yield heads, inputs

    def _put(self, heads: list[dict[str, Any]], answer: "Future[list[Any]]", output: TextIO, bar: "Bar") -> None:
        results = iter(answer.result())
        told = [head if "error" in head else head | self._told(next(results)) for head in heads]
        output.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in told)
        output.flush()
        self.done_count += len(told)
        self.bad_count += sum("error" in line for line in told)
        bar.show(self.done_count)

    def _told(self, result: Any) -> dict[str, Any]:
        if not isinstance(result, CallError):
            return self._write(result)
        reason = {"reason": result.reason} if result.reason else {}
        return {"error": {"code": result.code, "message": result.message, **reason}}


class Bar:
    """How far a file is, on a terminal; nothing where there is none."""

    def __init__(self, total: int | None, stream: TextIO) -> None:
        """Takes the number of lines, None where it is unknown."""
        self._total, self._stream = total, stream
        self._on = stream.isatty()
        self._began = self._shown = time.monotonic()
        self._width = 0

    def show(self, done_count: int, *, last: bool = False) -> None:
        """Draws the bar anew, a few times a second."""
        now = time.monotonic()
        if not self._on or (now - self._shown < BAR_EVERY_S and not last):
            return
        self._shown = now
        rate = done_count / max(now - self._began, 1e-9)
        share = min(1.0, done_count / self._total) if self._total else 0.0
        drawn = "#" * round(BAR_WIDTH * share)
        place = f"[{drawn:<{BAR_WIDTH}}] {done_count:,} of {self._total:,}" if self._total else f"{done_count:,}"
        text = f"{place} lines, {rate:,.0f} a second "
        self._stream.write(f"\r{text:<{self._width}}" + ("\n" if last else ""))  # over all of what stood there
        self._stream.flush()
        self._width = len(text)


def answer(path: str, output: str, bulk: Bulk) -> None:
    """Answers a file, `-` being standard input, into a file or standard output.

    Raises ValueError when a file cannot be opened, read or written or is to be its own output, and at the end when
    some lines were bad, saying how many; CallError when the endpoint stops answering.
    """
    if _is_same(path, output):
        raise ValueError(f"--output {output} is the file of --file, and would be emptied; name another file")
    try:
        _answer(path, output, bulk)
    except BrokenPipeError:
        raise
    except OSError as problem:  # also of closing the output, which writes what is left
        if not output:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again as it ends
        name = f"--output {output}" if output else "standard output"
        reason = f"{name} cannot be written ({problem.strerror})"
        raise ValueError(f"{reason}; {bulk.done_count} lines were answered") from None
    if bulk.bad_count:
        raise ValueError(f"{bulk.bad_count} of {bulk.done_count} lines were refused; their lines of output say why")


def _answer(path: str, output: str, bulk: Bulk) -> None:
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(_opened(path, "r", "--file")) if path != "-" else sys.stdin
        bar = Bar(_count(path) if path != "-" else None, sys.stderr)
        written = stack.enter_context(_opened(output, "w", "--output")) if output else sys.stdout
        try:
            bulk.run(_lines(lines, path, bulk), written, bar)
        finally:
            bar.show(bulk.done_count, last=True)


def _lines(file: TextIO, path: str, bulk: Bulk) -> Iterator[str]:
    """Yields the lines of a file; raises ValueError for one that cannot be read to its end."""
    try:
        yield from file
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path} is not UTF-8 ({problem.reason}); {bulk.done_count} lines were answered") from None
    except OSError as problem:
        told = f"--file {path} cannot be read ({problem.strerror})"
        raise ValueError(f"{told}; {bulk.done_count} lines were answered") from None


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as problem:
        raise ValueError(f"is not JSON ({problem}); write one JSON value a line") from None
    except RecursionError:
        raise ValueError("is nested too deeply to be read; write one JSON value a line, as the help shows") from None


def _is_too_much(error: CallError) -> bool:
    """Whether a call was refused for its size: as docs/errors.md says, or by gRPC itself, which gives no details."""
    is_message = error.code == "RESOURCE_EXHAUSTED" and not error.reason and error.retry_after_s is None
    return is_message or error.reason in TOO_MUCH


def _nothing() -> "Future[list[Any]]":
    done: Future[list[Any]] = Future()
    done.set_result([])
    return done


def _count(path: str) -> int | None:
    """Counts the lines of a file; None for a pipe, whose lines can be read once only."""
    if not Path(path).is_file():
        return None
    with Path(path).open("rb") as file:
        return sum(1 for line in file if line.strip())


def _is_same(path: str, output: str) -> bool:
    """Whether the input is a file, standard input as well, that the output would empty; under any of its names."""
    given = Path("/dev/stdin" if path == "-" else path)
    try:
        return bool(output) and given.is_file() and given.samefile(output)
    except OSError:  # opening them says what is wrong
        return False


def _opened(path: str, mode: str, flag: str) -> TextIO:
    try:
        return Path(path).open(mode, encoding="utf-8")  # type: ignore[return-value]
    except OSError as problem:
        raise ValueError(f"{flag} {path} cannot be opened ({problem.strerror})") from None
