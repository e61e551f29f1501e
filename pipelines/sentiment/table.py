"""Reads texts and labels from a CSV, TSV, JSONL or Parquet file, and says where a file is broken."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipelines.sentiment.reading import clean

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
FIELD_BYTES = 1 << 30
"""Longest field of a CSV file; Python's own limit of 128 KiB is too short for some texts."""

FLAGS = ("--text-column", "--label-column", "--language-column")

Place = str
"""Where a row stands, such as "line 7"."""
Row = tuple[str, str, str]
"""A text, its label and its language; that is empty where no column says it."""
Found = Iterator[tuple[Place, list[Any]]]
"""Where each row stands, and what the columns hold there."""


def read(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """Reads all rows, texts with single spaces, labels and languages as words.

    columns: those of texts, of labels and perhaps of languages.

    Raises ValueError naming file, line and the way out for anything that is not a text with a label.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--data {str(path)!r} must be a {', '.join(SUFFIXES)} file; several files go with --stream")
    if not path.is_file():
        raise ValueError(f"--data {str(path)!r} is not there, or is no file")
    if path.suffix == ".parquet":
        found = _parquet(path, columns)
    elif path.suffix == ".jsonl":
        found = _jsonl(path, columns)
    else:
        found = _csv(path, columns, "," if path.suffix == ".csv" else "\t")
    rows = [check(str(path), place, values) for place, values in found]
    if not rows:
        raise ValueError(f"{str(path)!r} holds no rows; it needs texts with labels")
    return rows


def check(path: str, place: Place, values: list[Any]) -> Row:
    """Cleans a row. Raises ValueError naming file and place when it is no text with a label."""
    text, label, *language = values
    where = f"{path!r}, {place}"
    if not isinstance(text, str):
        raise ValueError(f"{where}: the text is {text!r}; it must be text; mend or remove the row")
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if not isinstance(label, str | int) or not str(label).strip():
        raise ValueError(f"{where}: the label is {label!r}; it must be a word or a whole number")
    try:
        return clean(text), clean(str(label)), clean(str(language[0] or "").strip() or "unknown") if language else ""
    except ValueError as problem:
        raise ValueError(f"{where}: {problem}; mend or remove the row") from problem


def pick(path: str, there: list[str], columns: tuple[str, ...]) -> None:
    """Raises ValueError, listing the columns there are, when one of those asked for is missing."""
    for column, flag in zip(columns, FLAGS, strict=False):
        if column not in there:
            raise ValueError(
                f"{path!r} has no column {column!r}; it has {', '.join(map(repr, there))}: choose with {flag}"
            )


def _decode(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        byte = content[problem.start]
        raise ValueError(
            f"{str(path)!r}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"
        ) from problem
    if not text.strip():
        raise ValueError(f"{str(path)!r} is empty; it needs a text and a label per row")
    return text


def _csv(path: Path, columns: tuple[str, ...], delimiter: str) -> Found:
    return csv_rows(str(path), io.StringIO(_decode(path), newline=""), columns, delimiter)


def csv_rows(path: str, lines: Iterable[str], columns: tuple[str, ...], delimiter: str) -> Found:
    """Takes rows from the lines of a CSV file; raises ValueError that names the line."""
    csv.field_size_limit(FIELD_BYTES)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        pick(path, header, columns)
        places = [header.index(column) for column in columns]
        line = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                raise ValueError(
                    f"{path!r}, line {line}: {len(row)} fields where the header has {len(header)}; "
                    "put quotes around a field that holds a separator"
                )
            if row:
                yield f"line {line}", [row[at] for at in places]
            line = reader.line_num + 1
    except csv.Error as problem:
        raise ValueError(f"{path!r}, line {reader.line_num}: {problem}; mend the quotes") from problem


def _jsonl(path: Path, columns: tuple[str, ...]) -> Found:
    return jsonl_rows(str(path), _decode(path).split("\n"), columns)


def jsonl_rows(path: str, lines: Iterable[str], columns: tuple[str, ...]) -> Found:
    """Takes rows from lines of JSON; raises ValueError that names the line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as problem:
            raise ValueError(f"{path!r}, line {number}: no valid JSON ({problem})") from problem
        if not isinstance(row, dict):
            raise ValueError(f"{path!r}, line {number}: {type(row).__name__} where an object is needed")
        try:
            pick(path, list(row), columns)
        except ValueError as problem:
            raise ValueError(f"line {number}: {problem}") from problem
        yield f"line {number}", [row[column] for column in columns]


def _parquet(path: Path, columns: tuple[str, ...]) -> Found:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            pick(str(path), file.schema_arrow.names, columns)
            content = file.read(columns=list(columns))
    except (pyarrow.ArrowException, OSError) as problem:
        raise ValueError(f"{str(path)!r} cannot be read as Parquet ({problem})") from problem
    rows = zip(*(content[column].to_pylist() for column in columns), strict=True)
    for number, values in enumerate(rows, 1):
        yield f"row {number}", [*values]
