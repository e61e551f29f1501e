"""Where texts come from: splits, tokenizer and n-grams, and every way in which a user's file can be broken."""

import csv
import json
import re
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet

from pipelines.examples import Draw
from pipelines.sentiment import data, ngrams
from pipelines.sentiment.config import Config

ROWS = [(f"text number {number} is {word}", word) for number in range(20) for word in ("good", "bad")]


def csv_file(folder: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    """Writes rows as CSV."""
    path = folder / "reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def refusal(path: Path, **flags: str) -> str:
    """Loads a file that must be refused, and gives the message."""
    with pytest.raises(ValueError, match=re.escape(path.name)) as caught:
        data.load(Config(data=str(path), **flags))  # type: ignore[arg-type]
    return str(caught.value)


def write(path: Path, content: str | bytes) -> Path:
    """Writes a file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_the_sample_has_english_and_chinese_in_two_even_classes() -> None:
    rows = data.rows_of(Config())
    chinese = [label for text, label, _ in rows if any("\u4e00" <= character <= "\u9fff" for character in text)]
    assert [sorted(label for _, label, _ in rows).count(label) for label in ("negative", "positive")] == [2070, 2070]
    assert [chinese.count(label) for label in ("negative", "positive")] == [70, 70]


def test_splits_are_fixed_by_the_seed_and_share_no_text() -> None:
    texts = [text for text, _ in ROWS] + [ROWS[0][0]] * 5
    one, again, other = data.split(texts, 1), data.split(texts, 1), data.split(texts, 2)
    assert one == again != other
    assert sorted(row for part in one for row in part) == list(range(len(texts)))
    train, valid, test = ({texts[row] for row in part} for part in one)
    assert not train & valid and not train & test and not valid & test
    assert (len(train), len(valid), len(test)) == (32, 4, 4)


def test_the_same_file_has_the_same_digest_and_another_one_has_not(tmp_path: Path) -> None:
    first = data.load(Config(data=str(csv_file(tmp_path, ROWS))))
    assert first.digest == data.load(Config(data=str(csv_file(tmp_path, ROWS)), seed=7)).digest
    assert first.digest != data.load(Config(data=str(csv_file(tmp_path, ROWS[:-1])))).digest


def test_tokenizer_and_ngrams_are_learned_from_the_training_split_alone(tmp_path: Path) -> None:
    rows = [
        (f"sentence {number} with unseenword{number} and unseenword{number}", label)
        for number, (_, label) in enumerate(ROWS)
    ]
    path = csv_file(tmp_path, rows)
    loaded = data.load(Config(data=str(path)))
    train, *held_out = data.split([text for text, _ in rows], 0)
    kept = [ngrams.extract(rows[row][0]) for row in train]
    assert set(loaded.reader.keys_V.tolist()) == set(ngrams.choose(kept, 131_072).tolist())
    vocabulary = loaded.reader.tokenizer.get_vocab()
    assert not any(f"unseenword{row}" in token for token in vocabulary for part in held_out for row in part if row > 9)


def test_csv_tsv_jsonl_and_parquet_hold_the_same_data(tmp_path: Path) -> None:
    tsv = write(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS))
    lines = "\n".join(json.dumps({"label": label, "text": text, "id": 1}) for text, label in ROWS)
    jsonl = write(tmp_path / "a.jsonl", lines)
    table = pyarrow.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
    parquet.write_table(table, tmp_path / "a.parquet")
    paths = [csv_file(tmp_path, ROWS), tsv, jsonl, tmp_path / "a.parquet"]
    assert len({data.load(Config(data=str(path))).digest for path in paths}) == 1


def test_labels_may_be_whole_numbers_in_any_format(tmp_path: Path) -> None:
    numbers = [(text, number % 12 - 1) for number, (text, _) in enumerate(ROWS)]
    jsonl = write(
        tmp_path / "a.jsonl", "\n".join(json.dumps({"text": text, "label": label}) for text, label in numbers)
    )
    table = pyarrow.table({"text": [text for text, _ in numbers], "label": [float(label) for _, label in numbers]})
    parquet.write_table(table, tmp_path / "a.parquet")
    expected = [str(label) for label in range(-1, 11)]
    assert data.load(Config(data=str(jsonl))).labels == expected
    assert data.load(Config(data=str(tmp_path / "a.parquet"))).labels == expected


def test_columns_are_chosen_by_name_and_fields_may_hold_separators_and_line_breaks(tmp_path: Path) -> None:
    rows = [("7", f'{text}, "really"\nindeed', label) for text, label in ROWS]
    path = csv_file(tmp_path, rows, ("id", "review", "sentiment"))
    config = Config(data=str(path), text_column="review", label_column="sentiment")
    assert data.rows_of(config)[0] == ('text number 0 is good, "really" indeed', "good", "")


@pytest.mark.parametrize("stream", [False, True])
def test_a_column_of_languages_makes_slices_and_changes_nothing_that_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None, stream: bool
) -> None:
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    many = [(f"{text} {number}", label) for number in range(5) for text, label in ROWS]
    rows = [(*row, ("en", "de", "")[number % 3]) for number, row in enumerate(many)]
    path = csv_file(tmp_path, rows, ("text", "label", "lang"))
    languages = {text: language or "unknown" for text, _, language in rows}
    plain = data.load(Config(data=str(path), stream=stream))
    told = data.load(Config(data=str(path), stream=stream, language_column="lang"))
    rows_B = torch.arange(len(plain.train))
    parts = zip(told.train.batch(rows_B, None), plain.train.batch(rows_B, None), strict=True)
    assert told.digest == plain.digest and all(one.equal(other) for one, other in parts)
    assert data.slices(told)["language"] == [languages[text] for text in told.test_texts]
    assert "script" in data.slices(plain) and "script" not in data.slices(told)
    assert "--language-column" in refusal(path, language_column="tongue")


def test_a_batch_is_the_same_whatever_its_order_and_padding(tmp_path: Path) -> None:
    rows = [(f"{text} " * (1 + number % 5), label) for number, (text, label) in enumerate(ROWS)]
    loaded = data.load(Config(data=str(csv_file(tmp_path, rows))))
    assert loaded.train.lengths is not None
    short, long = int(loaded.train.lengths.argmin()), int(loaded.train.lengths.argmax())
    alone = loaded.train.batch(torch.tensor([short]), None)
    tokens_BT, grams_G, starts_B, label_B = loaded.train.batch(torch.tensor([long, short, long]), Draw(0, 0))
    assert tokens_BT[1, : alone[0].shape[1]].equal(alone[0][0])
    assert (tokens_BT[1, alone[0].shape[1] :] == -1).all() and (tokens_BT[0] >= 0).all()
    assert grams_G[starts_B[1] : starts_B[2]].equal(alone[1]) and label_B[1] == alone[3][0]


def test_a_row_with_the_wrong_number_of_fields_is_named_by_its_line(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "a.csv", 'text,label\n"two\nlines",good\nno quotes, here,bad\n'))
    assert "a.csv', line 4: 3 fields where the header has 2" in message and "quotes" in message


def test_an_unclosed_quote_is_named_by_its_line(tmp_path: Path) -> None:
    assert "line 3" in refusal(write(tmp_path / "a.csv", 'text,label\nfine,good\n"never closed,bad\n'))


def test_bytes_that_are_not_utf8_are_named_by_line_and_byte(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "a.csv", "text,label\nfine,good\ncafé,bad\n".encode("latin-1")))
    assert "line 3: byte 0xe9 is not UTF-8" in message


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_half_a_surrogate_pair_is_named_by_its_line(tmp_path: Path, name: str) -> None:
    content = {"a.csv": b"text,label\nodd \xed\xa0\x80,good\n", "a.jsonl": b'{"text": "odd \\ud800", "label": 1}'}[name]
    assert f"line {2 if name == 'a.csv' else 1}" in refusal(write(tmp_path / name, content))


def test_an_unknown_column_lists_those_there_are(tmp_path: Path) -> None:
    path = csv_file(tmp_path, ROWS, ("review", "stars"))
    message = refusal(path, label_column="stars")
    assert "no column 'text'" in message and "'review', 'stars'" in message and "--text-column" in message
    assert "--label-column" in refusal(path, text_column="review", label_column="mood")


@pytest.mark.parametrize("text", ["", "   ", "\u3000"])
def test_an_empty_text_is_named_by_its_line(tmp_path: Path, text: str) -> None:
    message = refusal(csv_file(tmp_path, [*ROWS[:2], (text, "good")]))
    assert "line 4: the text is empty or blank" in message


@pytest.mark.parametrize(
    "line", ['{"text": "fine"}', '{"text": "fine", "label": null}', '{"text": "fine", "label": 0.5}']
)
def test_a_missing_or_odd_label_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    assert "line 2" in refusal(write(tmp_path / "a.jsonl", '{"text": "fine", "label": 1}\n' + line))


@pytest.mark.parametrize("line", ["{", "[1]", '{"text": 5, "label": 1}'])
def test_a_broken_json_line_is_named(tmp_path: Path, line: str) -> None:
    assert "line 2" in refusal(write(tmp_path / "a.jsonl", '{"text": "fine", "label": 1}\n' + line))


def test_a_blank_label_in_csv_is_named_by_its_line(tmp_path: Path) -> None:
    assert "line 42: the label is ''" in refusal(csv_file(tmp_path, [*ROWS, ("fine", "")]))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    assert name in refusal(write(tmp_path / name, b""))


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    assert "holds no rows" in refusal(csv_file(tmp_path, []))


def test_a_missing_file_and_an_unknown_kind_of_file_are_refused(tmp_path: Path) -> None:
    assert "is not there" in refusal(tmp_path / "nowhere.csv")
    assert ".jsonl" in refusal(write(tmp_path / "a.xlsx", "text"))


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read as Parquet" in refusal(write(tmp_path / "a.parquet", b"PAR1 but not really"))


def test_a_null_in_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["fine", None], "label": [1, 2]}), tmp_path / "a.parquet")
    assert "row 2: the text is None" in refusal(tmp_path / "a.parquet")


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    assert "'good'" in refusal(csv_file(tmp_path, [row for row in ROWS if row[1] == "good"]))


def test_too_few_different_texts_are_refused(tmp_path: Path) -> None:
    assert "has 2 different texts" in refusal(csv_file(tmp_path, [("a", "good"), ("b", "bad")] * 10))
