"""Texts that outgrow memory: read as a stream, numbered on disk, and learned from as if they were in memory."""

import csv
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from training import ROOT, stop, train

from pipelines import loading
from pipelines.sentiment import data
from pipelines.sentiment.config import Config
from pipelines.sentiment.sampling import Sample
from pipelines.sentiment.streaming import place

ROWS = [(f"a {mood} film number {number}", mood) for number in range(150) for mood in ("good", "bad")]
FLAGS = {"vocabulary": 300, "ngrams": 2000, "width": 8}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None) -> None:
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The rows in three files of three kinds."""
    place = tmp_path / "reviews"
    place.mkdir()
    first, second, third = ROWS[:100], ROWS[100:200], ROWS[200:]
    table = pa.table({"text": [text for text, _ in first], "label": [label for _, label in first]})
    parquet.write_table(table, place / "1.parquet")
    with (place / "2.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *second])
    lines = [json.dumps({"text": text, "label": label}) for text, label in third]
    (place / "3.jsonl").write_text("\n".join(lines))
    return place


def streamed(where: Path | str, **flags: object) -> data.LabelledData:
    return data.load(Config(data=str(where), stream=True, **FLAGS, **flags))  # type: ignore[arg-type]


def test_how_far_files_and_rows_are_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SECONDS", 0.0)
    said: list[str] = []
    with loading.told(lambda event: said.append(event.get("sentence", ""))):
        streamed(folder)
    assert said[0] == "" and said[1:5] == [f"reading data, first pass, {done} of 3 files" for done in range(4)]
    assert said[5:] == [f"reading data, second pass, {done} of 300 rows" for done in (0, 100, 200, 300)]


def test_a_streamed_split_holds_what_the_reader_makes_of_its_texts(folder: Path) -> None:
    found = streamed(folder)
    own = [(text, label) for text, label in ROWS if place(text, 0)[0] == 0]
    there = found.reader.read([text for text, _ in own])
    every = torch.arange(len(own))
    tokens, grams, starts, labels = found.train.batch(every, None)
    for got, wanted in zip((tokens, grams, starts), there.batch(every), strict=True):
        assert torch.equal(got, wanted)
    assert [found.labels[number] for number in labels.tolist()] == [label for _, label in own]
    assert len(found.train) + len(found.valid) + len(found.test) == len(ROWS)
    assert found.train.lengths is not None and found.train.lengths.tolist() == there.lengths.tolist()


def test_a_text_that_occurs_twice_is_in_one_split_only(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS * 2]
    (tmp_path / "twice.jsonl").write_text("\n".join(lines))
    found = streamed(tmp_path / "twice.jsonl")
    assert len(set(found.valid_texts)) * 2 == len(found.valid_texts)


def test_files_without_a_text_to_learn_from_are_read_like_any(folder: Path) -> None:
    (folder / "4.csv").write_text("text,label\n")
    parquet.write_table(
        pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}), folder / "5.parquet"
    )
    for number in range(12):
        (folder / f"{number + 6}.csv").write_text(f"text,label\na film alone {number},good\n")
    found = streamed(folder)
    assert sum(len(split) for split in (found.train, found.valid, found.test)) == len(ROWS) + 12


def test_the_columns_are_made_once_and_anew_for_other_files_or_another_seed(folder: Path) -> None:
    first = streamed(folder)
    home = folder.parent / "home" / "streams"
    made = {path: path.stat().st_mtime_ns for path in home.glob("*/*.bin")}
    again, other = streamed(folder / "*"), streamed(folder, seed=1)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert first.digest == again.digest == other.digest and len(list(home.glob("*/facts.json"))) == 2
    (folder / "3.jsonl").write_text('{"text": "another one", "label": "good"}\n')
    assert streamed(folder).digest != first.digest


def test_a_streamed_run_resumes_exactly(folder: Path, tmp_path: Path) -> None:
    settings = {"data": str(folder), "stream": True, "epochs": 2, "batch_size": 16, **FLAGS}
    whole = train(tmp_path / "whole", "sentiment", checkpoint_steps=4, **settings)
    stop(tmp_path / "parts", word="sentiment", checkpoint_steps=4, stop_at=9, **settings)
    resumed = train(tmp_path / "parts", "sentiment", checkpoint_steps=4, **settings)
    assert resumed.named("resume")[0]["step"] > 0
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


def test_the_sample_depends_on_neither_order_nor_grouping() -> None:
    texts = [f"text {number} " * (number % 7 + 1) for number in range(500)]
    keys = {text: place(text, 3)[1] for text in texts}
    wanted = None
    for shuffle in range(5):
        random.Random(shuffle).shuffle(texts)
        parts = [Sample(100, 2000), Sample(100, 2000)]
        for at, text in enumerate(texts):
            parts[at % 2].add([text], [keys[text]])
        both = Sample(100, 2000)
        for part in parts:
            both.add(part.texts(), [keys[text] for text in part.texts()])
        wanted = wanted or both.texts()
        assert both.texts() == wanted and sum(map(len, wanted)) <= 2000 and len(wanted) > 20


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "text,label\nfine,good\n,bad\n", "a.csv', line 3: the text is empty or blank"),
        ("a.jsonl", '{"text": "fine", "label": "good"}\n{"text": 3, "label": "bad"}\n', "line 2: the text is 3"),
        ("a.csv", "words,label\nfine,good\n", "has no column 'text'; it has 'words', 'label'"),
        ("a.csv", "text,label\nfine,good\n", "have 1 labels; at least two are needed"),
        ("a.csv", "text,label\nfine,good\nbad,poor\n", "the least is 10"),
        ("a.parquet", "no parquet", "cannot be read as Parquet"),
        ("a.txt", "what", "names no .csv, .tsv, .jsonl, .parquet file"),
    ],
)
def test_a_broken_file_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        streamed(tmp_path / "files")
    assert not [path for path in (tmp_path / "home").glob("streams/*") if path.is_dir()]


def test_bytes_that_are_not_utf8_and_a_folder_that_is_not_there_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\nfine,good\n\xff,bad\n")
    with pytest.raises(ValueError, match="bytes that are not UTF-8"):
        streamed(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"names no \.csv"):
        streamed(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="--stream reads the files of --data"):
        Config(stream=True)


def test_files_in_s3_are_numbered_as_those_of_a_folder(folder: Path, bucket: str) -> None:
    from pyarrow import fs

    fs.copy_files(str(folder), f"{bucket}/reviews")
    here, there, some = streamed(folder), streamed(f"{bucket}/reviews"), streamed(f"{bucket}/reviews/*.csv")
    every = torch.arange(len(here.train))
    for one, other in zip(here.train.batch(every, None), there.train.batch(every, None), strict=True):
        assert torch.equal(one, other)
    assert here.digest == there.digest != some.digest
    with pytest.raises(ValueError, match="names no"):
        streamed("s3://nowhere/reviews")


MEASURE = """
import sys
from pipelines.sentiment import data
from pipelines.sentiment.config import Config
import torch, tokenizers, pyarrow.fs, pyarrow.parquet, ray
from pipelines import examples
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
flags = dict(vocabulary=300, ngrams=2000, width=8, max_characters=100)
small = data.load(Config(data=sys.argv[1], stream=True, **flags))
before = peak()
found = data.load(Config(data=sys.argv[2], stream=sys.argv[3] == "stream", **flags))
found.train.batch(torch.arange(100), None)
print(peak() - before)
"""


def test_memory_stays_bounded_however_large_the_data(tmp_path: Path) -> None:
    size = 60_000_000
    for name, count in (("small", 40), ("large", size // 20_000)):
        with (tmp_path / f"{name}.jsonl").open("w") as file:
            for number in range(count):
                text = f"{number} {'good' if number % 2 else 'bad'} " + "x" * 20_000
                file.write(json.dumps({"text": text, "label": number % 2}) + "\n")
    grown = {}
    for mode in ("stream", "memory"):
        words = [sys.executable, "-c", MEASURE, str(tmp_path / "small.jsonl"), str(tmp_path / "large.jsonl"), mode]
        settings = {**os.environ, "PYTHONPATH": str(ROOT)}
        grown[mode] = int(subprocess.run(words, env=settings, capture_output=True, text=True, check=True).stdout)
    assert grown["stream"] < size / 4 < size < grown["memory"]
