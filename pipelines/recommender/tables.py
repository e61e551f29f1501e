"""Reads ratings and items in goodbooks' and MovieLens' layouts; says file and line of what is broken.

A file is a CSV with a header (ratings.csv, movies.csv, books.csv), `::`-separated (ratings.dat, movies.dat of
MovieLens 1M and 10M), or ratings separated by tabs and items by bars (u.data, u.item of MovieLens 100K); any of
them may be gzipped.
"""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

USER, ITEM, RATING = ("user_id", "userid", "user"), ("book_id", "movieid", "item_id", "itemid", "item"), ("rating",)
TITLE, AUTHORS, GENRES = ("title", "original_title", "name"), ("authors", "author"), ("genres", "genre", "categories")
RATINGS_FILES = ("ratings.csv", "ratings.dat", "u.data", "ratings_random.csv")
ITEMS_FILES = ("items.csv", "book_metadata.csv", "movies.csv", "books.csv", "movies.dat", "u.item")
GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""What the 19 flags at the end of a row of u.item stand for."""


@dataclass(frozen=True)
class Item:
    """A row of the items file; what it does not have is empty."""

    id: str
    title: str = ""
    authors: tuple[str, ...] = ()
    genres: tuple[str, ...] = ()


def locate(folder: str) -> tuple[Path, Path]:
    """Finds the ratings and the items file in a folder.

    Raises ValueError when there is no such folder or it lacks one of them.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"--data is {folder!r}, which is no folder; name one that holds both files")
    found: list[Path] = []
    for kind, names in (("ratings", RATINGS_FILES), ("items", ITEMS_FILES)):
        paths = [path for name in names for path in (Path(folder, name), Path(folder, name + ".gz")) if path.is_file()]
        if not paths:
            raise ValueError(f"folder {folder!r} has no {kind} file; it would be one of {', '.join(names)}, or .gz")
        found.append(paths[0])
    return found[0], found[1]


def read_ratings(path: Path) -> tuple[list[str], list[str], list[float]]:
    """Reads who rated what: user ids, item ids and ratings, row by row.

    A file without a rating column gives 1 for every row. Raises ValueError naming file and line.
    """
    users: list[str] = []
    items: list[str] = []
    ratings: list[float] = []
    rows = _rows(path, ["user_id", "item_id", "rating", "timestamp"])
    _, header = next(rows)
    at_user, at_item = _column(path, header, USER), _column(path, header, ITEM)
    at_rating = _column(path, header, RATING, optional=True)
    for line, row in rows:
        user, item = row[at_user].strip(), row[at_item].strip()
        rating = _number(row[at_rating]) if at_rating >= 0 else 1.0
        if not user or not item or rating is None:
            raise ValueError(
                f"{path}, line {line}: {','.join(row)!r} is no rating; a row has a user, an item and a number"
            )
        users.append(user)
        items.append(item)
        ratings.append(rating)
    if not users:
        raise ValueError(f"{path} holds no ratings; give a file with at least one row below its header")
    return users, items, ratings


def read_items(path: Path) -> list[Item]:
    """Reads the items in the file's order.

    Raises ValueError naming file and line, and for an id that occurs twice.
    """
    rows = _rows(path, ["item_id", "title", "genres"])
    _, header = next(rows)
    at_id, at_title = _column(path, header, ITEM), _column(path, header, TITLE)
    at_authors, at_genres = _column(path, header, AUTHORS, optional=True), _column(path, header, GENRES, optional=True)
    found: dict[str, Item] = {}
    for line, row in rows:
        key = row[at_id].strip()
        if not key or key in found:
            problem = f"item {key!r} occurs a second time" if key else "the item's id is empty"
            raise ValueError(f"{path}, line {line}: {problem}; every row has an id of its own")
        authors = _split(row[at_authors]) if at_authors >= 0 else ()
        found[key] = Item(key, row[at_title].strip(), authors, _split(row[at_genres]) if at_genres >= 0 else ())
    if not found:
        raise ValueError(f"{path} holds no items; give a file with at least one row below its header")
    return list(found.values())


def _rows(path: Path, names: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields the header, then each row with its line; `names` is the header of a file that has none."""
    text = _text(path)
    first = text.split("\n", 1)[0]
    lines = enumerate((line.removesuffix("\r") for line in text.split("\n")), 1)  # titles may hold other line breaks
    if "::" in first:
        rows = ((number, line.split("::")) for number, line in lines)
    elif first.count("|") > 10:
        rows = ((number, _row_100k(line)) for number, line in lines)
    elif "\t" in first:
        rows = ((number, line.split("\t")) for number, line in lines)
    else:
        rows = _csv_rows(path, text)
        names = [name.strip().lower() for name in next(rows, (1, [""]))[1]]
    yield 1, names
    for number, row in rows:
        if row and row != [""]:
            if len(row) != len(names):
                raise ValueError(
                    f"{path}, line {number}: {len(row)} fields where {len(names)} are expected ({', '.join(names)})"
                )
            yield number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}; the file must be a CSV with a header") from error


def _row_100k(line: str) -> list[str]:
    """Turns a row of u.item (id, title, two dates, address, 19 flags) into id, title and genres."""
    fields = line.split("|")
    if len(fields) != 5 + len(GENRES_100K):
        return fields
    return [*fields[:2], "|".join(name for name, flag in zip(GENRES_100K, fields[5:], strict=True) if flag == "1")]


def _text(path: Path) -> str:
    """Reads a file whole, plain or gzipped; .dat and u.item files that are not UTF-8 are Latin-1, as MovieLens' are."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"cannot read {path}: {reason}; give a readable file") from error
    except (EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}; the gzip file is cut short or broken") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if re.search(r"(\.dat|u\.item)(\.gz)?$", path.name):
            return raw.decode("latin-1")
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte {raw[error.start]:#x} is not UTF-8; save the file as UTF-8"
        ) from error


def _column(path: Path, header: list[str], names: tuple[str, ...], optional: bool = False) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    if optional:
        return -1
    raise ValueError(f"{path} has no column {' or '.join(map(repr, names))}; it has {', '.join(map(repr, header))}")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _split(text: str) -> tuple[str, ...]:
    """Splits authors or genres at bars, or at commas where there are none."""
    parts = text.split("|") if "|" in text else text.split(",")
    return tuple(part.strip() for part in parts if part.strip() and part.strip() != "(no genres listed)")
