"""Makes a batch of exactly the rows of a file: examples of the task's own form, or numbers of training examples."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import torch

from pipelines.inspecting.subject import Subject, name_examples

SHOWN = 40
MOST_ROWS = 4_096


def take(subject: Subject, path: Path) -> None:
    """Puts a file's rows in the place of the subject's batch.

    A JSONL file has a JSON value a line, a CSV or TSV file a header. Raises ValueError for a file that cannot be read
    and for rows that the task does not know.
    """
    rows = read(path)
    if all(type(row) is int for row in rows):
        subject.index = torch.tensor(rows)
        wrong = [row for row in rows if not 0 <= row < len(subject.data.train)]
        if wrong:
            raise ValueError(
                f"--batch {str(path)!r} names training example {wrong[0]}; there are 0 to {len(subject.data.train) - 1}"
            )
        subject.names = name_examples(subject.index)
    else:
        make = getattr(subject.task.data, "rows", None)
        if make is None:
            raise ValueError(
                f"the task {subject.task.name} has no `rows` in its data.py, which makes examples of a file's rows; "
                "write it, or let the file hold numbers of training examples, one a line"
            )
        try:
            subject.split = make(rows, subject.config, subject.data).to(subject.device)
        except ValueError as problem:
            raise ValueError(f"--batch {str(path)!r}: {problem}") from problem
        subject.index = torch.arange(len(rows))
        subject.names = [f"row {number}" for number in range(1, len(rows) + 1)]
        subject.notes += [f"row {number}: {_short(row)}" for number, row in enumerate(rows[:8], 1)]
    subject.rows_of = str(path)


def read(path: Path) -> list[Any]:
    """Reads a file's rows; raises ValueError, naming the line, for one that is none."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"--batch {str(path)!r} cannot be read ({problem})") from None
    if path.suffix in (".csv", ".tsv"):
        rows: list[Any] = _fields(path, text)
    else:
        rows = [_parsed(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not 0 < len(rows) <= MOST_ROWS:
        raise ValueError(f"--batch {str(path)!r} has {len(rows)} rows; a batch has 1 to {MOST_ROWS}")
    return rows


def _fields(path: Path, text: str) -> list[Any]:
    """Takes the rows of a CSV or TSV file as training does: a field in quotes may hold line breaks."""
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="," if path.suffix == ".csv" else "\t", strict=True)
    found: list[Any] = []
    try:
        for row in rows:
            if None in row or None in row.values():
                raise csv.Error("a row has other fields than the header")
            found.append(row)
    except csv.Error as problem:
        raise ValueError(f"--batch {str(path)!r}, line {rows.line_num}: {problem}; mend the quotes") from None
    return found


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as problem:
        raise ValueError(
            f"--batch {str(path)!r}, line {number}: no JSON ({problem}); write one JSON value a line"
        ) from None


def _short(row: Any) -> str:
    text = json.dumps(row, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
