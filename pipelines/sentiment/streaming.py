"""Texts with labels that outgrow memory: read twice as a stream, numbered once onto the disk, and indexed from there.

The first pass finds the labels, the content's digest, and a bounded sample of training texts from which tokenizer and
n-grams are learned; the second writes numbers. A row's split follows from its text's hash, so that nothing of the
whole need be in memory, and what a step learns from is a function of counters as it is with data in memory.

Shapes: B texts of a batch, N texts of a split.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines import loading, shards, stream
from pipelines.examples import SPLITS, Draw, OnDemand
from pipelines.sentiment import data, table
from pipelines.sentiment.config import Config
from pipelines.sentiment.reading import Reader, Texts
from pipelines.sentiment.sampling import Sample
from pipelines.shards import Shards, Writer
from pipelines.stream import Part

PART_ROWS = 1024
"""Rows that are numbered together."""
VERSION = 2
"""Of what the columns mean; another one makes them anew."""


@dataclass
class Streamed(data.Labelled):
    """A split whose numbers stay on disk, whatever the device."""

    device: torch.device

    def to(self, device: torch.device) -> "Streamed":
        """Moves batches, once they are read, to a device."""
        return Streamed(self.texts, self.targets, device)

    def batch(self, index_B: Tensor, draw: Draw | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Takes tokens, n-grams, their starts and labels, as a split in memory does."""
        tokens, grams, starts, labels = super().batch(index_B.cpu(), draw)
        return tokens.to(self.device), grams.to(self.device), starts.to(self.device), labels.to(self.device)


def _stored(content: Tensor, ends_N: Tensor) -> Sequence[str]:
    """Gives texts on disk, read one by one, of UTF-8 bytes and where each text ends."""

    def read(at: int) -> str:
        start = int(ends_N[at - 1]) if at else 0
        return bytes(content[start : int(ends_N[at])].tolist()).decode()

    return OnDemand(len(ends_N), read)


def load(config: Config) -> data.LabelledData:
    """Opens the numbers of the files that `--data` names, made now if they never were on this machine.

    Raises ValueError for a file or a row that is broken, saying where, and for too few rows or labels.
    """
    found = stream.files(config.data, table.SUFFIXES)
    kept = (
        "text_column",
        "label_column",
        "language_column",
        "encoder",
        "max_tokens",
        "max_characters",
        "vocabulary",
        "ngrams",
        "seed",
    )
    settings = {name: value for name, value in asdict(config).items() if name in kept}
    key = json.dumps([VERSION, found, settings])
    made = shards.cached(key, partial(_fill, config=config, addresses=[address for address, _, _ in found]))
    reader = Reader.load(made.folder, made.facts["max_tokens"])
    train, valid, test = (_split(made, name) for name in SPLITS)
    valid_texts, test_texts = (_stored(*_columns(made, f"{name}.text")) for name in SPLITS[1:])
    labels, digest, prints = made.facts["labels"], made.facts["digest"], made.column("train.prints", torch.int64)
    languages = _stored(*_columns(made, "test.language")) if config.language_column else ()
    name, texts = config.data, (valid_texts, test_texts)
    return data.LabelledData(train, valid, test, digest, name, labels, reader, *texts, prints, languages)


def _columns(made: Shards, name: str) -> tuple[Tensor, Tensor]:
    """Gives words on disk: their bytes, and where each ends."""
    return made.column(f"{name}s", torch.uint8), made.column(f"{name}_ends", torch.int64)


def _split(made: Shards, name: str) -> Streamed:
    tokens, grams = made.column(f"{name}.tokens", torch.int32), made.column(f"{name}.grams", torch.int32)
    ends = [made.column(f"{name}.{part}_ends", torch.int64) for part in ("token", "gram")]
    texts = Texts(tokens, ends[0], grams, ends[1])
    return Streamed(texts, made.column(f"{name}.targets", torch.int64), torch.device("cpu"))


def _fill(folder: Path, config: Config, addresses: list[str]) -> None:
    """Makes the columns of all splits, and what reads a text as they were read."""
    columns = config.columns
    sample, labels, content, count = Sample(), set[str](), hashlib.sha256(), 0
    read = partial(survey, columns=columns, most=config.max_characters, seed=config.seed)
    reading = loading.Pass("first", len(addresses), "files")
    for part in stream.through(addresses, read):
        labels.update(_words(part["labels"], part["label_ends"]))
        sample.add(_words(part["sample"], part["sample_ends"]), part["keys"])
        content.update(part["digest"].tobytes())
        count += int(part["count"][0])
        reading.add(1)
    if len(labels) < 2:
        raise ValueError(f"the rows of {config.data!r} have {len(labels)} labels; at least two are needed")
    texts = sample.texts()
    if len(texts) < data.LEAST_TEXTS:
        raise ValueError(f"{config.data!r} has {len(texts)} texts to learn from; the least is {data.LEAST_TEXTS}")
    reader, names = data.reader_of(config, texts), sorted(labels, key=data.order)
    reader.save(folder)
    number = partial(numbered, columns=columns, most=config.max_characters, seed=config.seed, names=names)
    parcel = (reader.tokenizer.to_str(), reader.keys_V, reader.max_tokens)
    facts = {"labels": names, "digest": content.hexdigest(), "max_tokens": reader.max_tokens}
    with Writer(folder) as writer:
        _write(writer, stream.through(addresses, partial(number, parcel=parcel)), count)
        if min(writer.counts.get(f"{name}.targets", 0) for name in SPLITS) == 0:
            raise ValueError(f"{config.data!r} has too few different texts to be split; give more")
        writer.close(facts)


def _write(writer: Writer, parts: Iterator[Part], count: int) -> None:
    ends, reading = dict[str, int](), loading.Pass("second", count, "rows")
    for part in parts:
        for column, values in part.items():
            shifted = values + ends.get(column, 0) if column.endswith("_ends") else values
            writer.append(column, shifted)
            if column.endswith("_ends") and len(shifted):
                ends[column] = int(shifted[-1])
        reading.add(sum(len(part.get(f"{name}.targets", ())) for name in SPLITS))


def survey(address: str, columns: tuple[str, ...], most: int, seed: int) -> Iterator[Part]:
    """Reads a file once: its labels, a sample of its training texts, digest and count of its rows, as one part."""
    labels, sample, content, count = set[str](), Sample(), hashlib.sha256(), 0
    for text, label, _ in rows(address, columns):
        labels.add(label)
        count += 1
        for word in (text, label):
            content.update(len(word.encode()).to_bytes(8, "little") + word.encode())
        if place(text[:most], seed)[0] == 0:
            sample.add([text[:most]], np.array([place(text[:most], seed)[1]], dtype=np.int64))
    kept = sample.texts()
    (label_bytes, label_ends), (sample_bytes, sample_ends) = _bytes(sorted(labels)), _bytes(kept)
    keys = np.array([place(text, seed)[1] for text in kept], dtype=np.int64)
    yield {
        "labels": label_bytes,
        "label_ends": label_ends,
        "sample": sample_bytes,
        "sample_ends": sample_ends,
        "keys": keys,
        "digest": np.frombuffer(content.digest(), dtype=np.uint8),
        "count": np.array([count], dtype=np.int64),
    }


def numbered(
    address: str, columns: tuple[str, ...], most: int, seed: int, names: list[str], parcel: tuple[str, Any, int]
) -> Iterator[Part]:
    """Reads a file again and numbers its rows, a part of all splits every PART_ROWS rows."""
    from tokenizers import Tokenizer

    reader = Reader(Tokenizer.from_str(parcel[0]), parcel[1], parcel[2])
    numbers = {name: number for number, name in enumerate(names)}
    waiting: list[tuple[str, int, str]] = []
    for text, label, language in rows(address, columns):
        waiting.append((text[:most], numbers[label], language))
        if len(waiting) == PART_ROWS:
            yield _part(waiting, reader, seed)
            waiting = []
    if waiting:
        yield _part(waiting, reader, seed)


def _part(found: list[tuple[str, int, str]], reader: Reader, seed: int) -> Part:
    part: Part = {}
    for number, name in enumerate(SPLITS):
        own = [row for row in found if place(row[0], seed)[0] == number]
        if not own:
            continue
        texts = reader.read([text for text, _, _ in own])
        part[f"{name}.tokens"], part[f"{name}.token_ends"] = texts.tokens.numpy(), texts.token_ends.numpy()
        part[f"{name}.grams"], part[f"{name}.gram_ends"] = texts.grams.numpy(), texts.gram_ends.numpy()
        part[f"{name}.targets"] = np.array([label for _, label, _ in own], dtype=np.int64)
        if name == "train":
            part[f"{name}.prints"] = data.prints_of(text for text, _, _ in own).numpy()
        else:
            part[f"{name}.texts"], part[f"{name}.text_ends"] = _bytes([text for text, _, _ in own])
        if name == "test" and own[0][2]:
            part[f"{name}.languages"], part[f"{name}.language_ends"] = _bytes([language for _, _, language in own])
    return part


def place(text: str, seed: int) -> tuple[int, int]:
    """Gives a text's split (0 train, 1 valid, 2 test) and its rank in the sample, by its hash alone."""
    drawn = hashlib.blake2b(text.encode(), digest_size=16, key=str(seed).encode()).digest()
    share = int.from_bytes(drawn[:8], "little") / 2**64
    return (share >= data.TRAIN) + (share >= data.TRAIN + data.VALID), int.from_bytes(drawn[8:], "little") >> 1


def rows(address: str, columns: tuple[str, ...]) -> Iterator[table.Row]:
    """Reads a file row by row, cleaned; raises ValueError that names file and place."""
    system, path = stream.filesystem(address)
    if address.endswith(".parquet"):
        found = _parquet(system, path, address, columns)
    else:
        found = _lines(system, path, address, columns)
    for at, values in found:
        yield table.check(address, at, values)


def _parquet(system: Any, path: str, address: str, columns: tuple[str, ...]) -> table.Found:
    import pyarrow
    from pyarrow import parquet

    try:
        with system.open_input_file(path) as source, parquet.ParquetFile(source) as file:
            table.pick(address, file.schema_arrow.names, columns)
            number = 0
            for batch in file.iter_batches(PART_ROWS, columns=list(columns)):
                for values in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                    number += 1
                    yield f"row {number}", [*values]
    except (pyarrow.ArrowException, OSError) as problem:
        raise ValueError(f"{address!r} cannot be read as Parquet ({problem})") from problem


def _lines(system: Any, path: str, address: str, columns: tuple[str, ...]) -> table.Found:
    try:
        with system.open_input_stream(path) as source, io.TextIOWrapper(source, "utf-8-sig", newline="") as lines:
            if address.endswith(".jsonl"):
                yield from table.jsonl_rows(address, lines, columns)
            else:
                yield from table.csv_rows(address, lines, columns, "," if address.endswith(".csv") else "\t")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{address!r} holds bytes that are not UTF-8; save the file as UTF-8") from problem


def _bytes(words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Joins words as UTF-8, and says where each ends."""
    coded = [word.encode() for word in words]
    ends = np.cumsum([len(word) for word in coded], dtype=np.int64) if coded else np.zeros(0, dtype=np.int64)
    return np.frombuffer(b"".join(coded), dtype=np.uint8), ends


def _words(content: np.ndarray, ends: np.ndarray) -> list[str]:
    """Takes apart what `_bytes` joined."""
    bounds = [0, *ends.tolist()]
    return [content[start:end].tobytes().decode() for start, end in pairwise(bounds)]
