"""Every line of a file gets an answer or an error of its own, whatever it holds, and the file itself is left alone."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import endpoints
import pytest
from PIL import Image

from eagerly import cli
from eagerly.commands import bulk
from eagerly.contract import CallError

MOST_BYTES, MOST_ITEMS = 60_000, 20


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An endpoint that takes little at a time."""
    models, folder = list(endpoints.real_models()), tmp_path_factory.mktemp("metrics")
    with endpoints.serving(models, folder, max_message_bytes=MOST_BYTES, max_items=MOST_ITEMS) as running:
        yield running.address


def answered(service: str, lines: list[str], folder: Path, *words: str) -> tuple[int, list[Any]]:
    """Answers lines as they stand; returns the exit code and the lines of output."""
    inputs, results = folder / "inputs.jsonl", folder / "results.jsonl"
    inputs.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    code = cli.main(["predict", service, "--file", str(inputs), "--output", str(results), *words])
    return code, [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def noise(side: int) -> bytes:
    """A picture that is no smaller as a file than its pixels."""
    file = io.BytesIO()
    Image.frombytes("L", (side, side), os.urandom(side * side)).save(file, "PNG")
    return file.getvalue()


def blank(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def written(pictures: list[bytes], folder: Path) -> list[str]:
    """Writes pictures beside each other; returns their lines."""
    for number, content in enumerate(pictures):
        (folder / f"{number}.png").write_bytes(content)
    return [json.dumps(str(folder / f"{number}.png")) for number in range(len(pictures))]


def test_a_call_of_too_many_bytes_is_made_in_parts_and_a_line_of_too_many_is_an_error(address: str, tmp_path: Path):
    lines = written([noise(100) for _ in range(7)] + [noise(300)] + [noise(100) for _ in range(4)], tmp_path)
    code, told = answered("classifier", lines, tmp_path, "--address", address)
    assert code == 2 and [one["line"] for one in told] == [*range(1, 13)]
    assert told[7]["error"]["code"] == "RESOURCE_EXHAUSTED" and str(MOST_BYTES) in told[7]["error"]["message"]
    _, alone = answered("classifier", lines, tmp_path, "--address", address, "--batch", "1")
    assert [one.get("labels", [{}])[0].get("label") for one in told] == [
        one.get("labels", [{}])[0].get("label") for one in alone
    ]
    assert sum("labels" in one for one in told) == 11


def test_pictures_of_more_pixels_than_a_call_may_hold_are_answered_in_parts(address: str, tmp_path: Path):
    lines = written([blank(3500, 3000)] * 8, tmp_path)
    code, told = answered("classifier", lines, tmp_path, "--address", address)
    assert code == 0 and ["labels" in one for one in told] == [True] * 8


def test_a_batch_of_more_items_than_the_endpoint_takes_is_answered_in_parts(address: str, tmp_path: Path):
    lines = [json.dumps(f"film {number}") for number in range(2 * MOST_ITEMS + 1)]
    code, told = answered("sentiment", lines, tmp_path, "--address", address, "--batch", "41")
    assert code == 0 and sum("labels" in one for one in told) == len(lines)


def test_an_endpoint_without_room_is_not_asked_for_halves(tmp_path: Path):
    asked: list[int] = []

    def refuse(inputs: list[Any]) -> list[Any]:
        asked.append(len(inputs))
        raise CallError("RESOURCE_EXHAUSTED", "the queue is full", reason="QUEUE_FULL")

    with pytest.raises(CallError, match="full"):
        run(["a", "b"], tmp_path, refuse)
    assert asked == [2]


def run(texts: list[str], folder: Path, ask: bulk.Ask) -> None:
    (folder / "texts.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts))
    work = bulk.Bulk(str, ask, lambda text: {"text": text}, len(texts), 1)
    bulk.answer(str(folder / "texts.jsonl"), str(folder / "out"), work)


@pytest.mark.parametrize(
    ("service", "good", "bad", "says"),
    [
        ("sentiment", '"fine"', r'"so \ud83d"', r"holds '\ud83d', half of a pair"),
        ("sentiment", r'"so \ud83d\ude00"', "[" * 100_000, "nested too deeply"),
        ("sentiment", '"fine"', '{"a":' * 100_000, "nested too deeply"),
        ("classifier", '"digit.png"', r'"\ud83d.png"', "surrogates not allowed"),
        ("recommender", '{"user_id": "known"}', r'{"user_id": "\ude00"}', r"holds '\ude00', half of a pair"),
        ("recommender", '{"user_id": "known"}', r'{"item_ids": ["1", "\ud83d"]}', r"holds '\ud83d', half of a pair"),
    ],
)
def test_a_line_that_cannot_be_sent_is_an_error_and_its_neighbours_are_answered(
    address: str, tmp_path: Path, service: str, good: str, bad: str, says: str
):
    (tmp_path / "digit.png").write_bytes(blank(28, 28))
    user = endpoints.real_models()[2].model.catalogue.user_ids[0]
    good = good.replace("digit.png", str(tmp_path / "digit.png")).replace("known", user)
    code, told = answered(service, [good, bad, good], tmp_path, "--address", address)
    assert code == 2 and ["error" in one for one in told] == [False, True, False]
    assert told[1]["error"]["code"] == "INVALID_ARGUMENT" and says in told[1]["error"]["message"]


@pytest.mark.parametrize("name", ["itself", "a symbolic link", "a hard link"])
def test_a_file_is_not_overwritten_with_its_own_answers(
    address: str, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    inputs, output = tmp_path / "inputs.jsonl", tmp_path / "link.jsonl"
    inputs.write_text('"fine"\n')
    if name == "a symbolic link":
        output.symlink_to(inputs)
    elif name == "a hard link":
        output.hardlink_to(inputs)
    else:
        output = tmp_path / ".." / tmp_path.name / "inputs.jsonl"
    words = ["predict", "sentiment", "--file", str(inputs), "--output", str(output), "--address", address]
    assert cli.main(words) == 2
    assert f"--output {output} is the file of --file" in capsys.readouterr().err
    assert inputs.read_text() == '"fine"\n'


def test_an_older_output_is_written_anew(address: str, tmp_path: Path):
    (tmp_path / "results.jsonl").write_text("old\n" * 9)
    code, told = answered("sentiment", ['"fine"'], tmp_path, "--address", address)
    assert code == 0 and len(told) == 1
