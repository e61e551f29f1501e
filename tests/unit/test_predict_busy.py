"""A file is answered to its end by an endpoint that is busy or away for a while, and by none that never was there."""

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import endpoints
import pytest

from eagerly import cli
from eagerly.commands import bulk
from eagerly.contract import CallError

LINES = 40


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs.jsonl"
    path.write_text("".join(json.dumps(f"text {number}") + "\n" for number in range(LINES)))
    return path


def ask(inputs: Path, address: str, *more: str) -> tuple[int, list[Any]]:
    """Answers a file, four lines a call; returns the exit code and the texts of the results, in order."""
    output = inputs.with_name("results.jsonl")
    words = ["predict", "sentiment", "--file", str(inputs), "--output", str(output), "--address", address]
    code = cli.main([*words, "--batch", "4", *more])
    told = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    assert [one["line"] for one in told] == [*range(1, len(told) + 1)]
    return code, [one["labels"][0]["label"] for one in told if "labels" in one]


ALL = [f"text {number}" for number in range(LINES)]


def later(deed: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=deed)
    thread.start()
    return thread


class Slow(endpoints.Gate):
    """A model that takes a moment for each batch."""

    def predict(self, texts: list[str]) -> list[Any]:
        time.sleep(0.05)
        return super().predict(texts)


def endpoint(model: Any, folder: Path, port: int = 0, **options: Any) -> endpoints.Endpoint:
    made = endpoints.Endpoint([endpoints.loaded("sentiment", model)], folder, port=port, **options)
    made.run(made.server.start())
    return made


def end(running: endpoints.Endpoint) -> None:
    running.run(running.server.drain())
    running.close()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[endpoints.Gate, str]]:
    """A model that answers once its gate is open, at an endpoint where one call can wait for it."""
    gate = endpoints.Gate()
    running = endpoint(gate, tmp_path / "full", max_items=4, max_waiting=4, max_batch=4, inline=False)
    yield gate, running.address
    gate.open.set()
    end(running)


def test_a_busy_endpoint_is_asked_again_until_the_file_is_answered(
    full: tuple[endpoints.Gate, str], inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate, address = full
    gate.open.clear()
    opens = threading.Timer(1.5, gate.open.set)
    opens.start()
    assert ask(inputs, address, "--concurrency", "6") == (0, ALL)
    assert capsys.readouterr().err == ""
    opens.join()


def test_an_endpoint_that_stays_busy_ends_the_file_after_bounded_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MOST_TRIES", 3)
    came: list[int] = []

    def refuse(inputs: list[Any]) -> list[Any]:
        came.append(1)
        raise CallError("RESOURCE_EXHAUSTED", "the queue is full", retry_after_s=0.01)

    (tmp_path / "one.jsonl").write_text('"text"\n')
    with pytest.raises(CallError, match="the queue is full"):
        bulk.answer(str(tmp_path / "one.jsonl"), str(tmp_path / "out"), bulk.Bulk(str, refuse, dict, 1, 1))
    assert len(came) == 3


def test_each_try_waits_as_long_as_the_endpoint_asks_for(tmp_path: Path) -> None:
    came: list[float] = []

    def refuse(inputs: list[Any]) -> list[Any]:
        came.append(time.monotonic())
        if len(came) < 4:
            raise CallError("RESOURCE_EXHAUSTED", "the queue is full", retry_after_s=0.1)
        return inputs

    (tmp_path / "one.jsonl").write_text('"text"\n')
    output = tmp_path / "results.jsonl"
    bulk.answer(str(tmp_path / "one.jsonl"), str(output), bulk.Bulk(str, refuse, lambda text: {"text": text}, 1, 1))
    waits = [after - before for before, after in itertools.pairwise(came)]
    assert [wait >= least for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True)] == [True] * 3
    assert sum(waits) < 2 and json.loads(output.read_text())["text"] == "text"


def test_a_refusal_that_no_wait_mends_ends_the_file_at_once(tmp_path: Path) -> None:
    came: list[int] = []

    def refuse(inputs: list[Any]) -> list[Any]:
        came.append(1)
        raise CallError("INVALID_ARGUMENT", "top_k: is -1", reason="OUT_OF_RANGE")

    (tmp_path / "two.jsonl").write_text('"text"\n' * 2)
    with pytest.raises(CallError, match="is -1"):
        bulk.answer(str(tmp_path / "two.jsonl"), str(tmp_path / "out"), bulk.Bulk(str, refuse, dict, 2, 1))
    assert came == [1]


def test_an_endpoint_that_goes_and_comes_back_answers_the_rest(tmp_path: Path, inputs: Path) -> None:
    model = Slow()
    first = endpoint(model, tmp_path / "first", drain_s=1.0)
    port, made = first.server.port, []

    def go_and_come() -> None:
        while len(model.seen) < 3:
            time.sleep(0.01)
        end(first)
        time.sleep(1.0)
        made.append(endpoint(model, tmp_path / "second", port))

    other = later(go_and_come)
    assert ask(inputs, f"127.0.0.1:{port}", "--concurrency", "2") == (0, ALL)
    other.join()
    assert made, "it did not go"
    end(made[0])


def test_an_endpoint_that_goes_for_good_ends_the_file_with_how_far_it_came(
    tmp_path: Path, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Slow()
    running = endpoint(model, tmp_path / "first", drain_s=1.0)

    def go() -> None:
        while len(model.seen) < 3:
            time.sleep(0.01)
        end(running)

    other = later(go)
    code, told = ask(inputs, running.address, "--concurrency", "1", "--timeout-s", "2")
    other.join()
    assert code == 2 and 0 < len(told) < LINES
    assert f"; {len(told)} lines were answered before" in capsys.readouterr().err


@pytest.mark.parametrize("timeout", ["3", "60"])
def test_an_endpoint_that_is_away_at_the_start_is_an_error_within_seconds(
    timeout: str, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        began = time.monotonic()
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        assert ask(inputs, address, "--timeout-s", timeout) == (2, [])
    assert time.monotonic() - began < 5
    assert f"no endpoint answers at {address}" in capsys.readouterr().err
