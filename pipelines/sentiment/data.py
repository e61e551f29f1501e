"""Texts with labels: the embedded sample or a file of the user's own, split by the seed.

Shapes: B texts of a batch, N texts of a split.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines import examples, reference
from pipelines.examples import Data, Draw, digest, permutation
from pipelines.results import bands
from pipelines.sentiment import bpe, encoder, ngrams, table
from pipelines.sentiment.config import Config
from pipelines.sentiment.reading import Reader, Texts, clean

SAMPLE = Path(__file__).parent / "sample"
SAMPLE_FILES = ("sentence-polarity.csv", "asap-zh.csv")
LEAST_TEXTS = 10
TRAIN, VALID = 0.8, 0.1
"""Shares of the distinct texts; the rest is the test split."""
READ_BY = ("max_characters",)
"""Flags that change texts, so that the fingerprints of one text differ where they do, and so may the splits."""
LENGTHS = (50, 100, 200, 500)
"""Characters at which the slices by length end."""


@dataclass
class Labelled:
    """A split: texts and the numbers of their labels."""

    texts: Texts
    targets: Tensor
    lengths: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        """Counts the tokens of each text."""
        self.lengths = self.texts.lengths

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.targets)

    def to(self, device: torch.device) -> "Labelled":
        """Moves the tensors to a device."""
        return Labelled(self.texts.to(device), self.targets.to(device))

    def batch(self, index_B: Tensor, draw: Draw | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Takes tokens [B, T], n-grams [G], their starts [B] and labels [B]; texts are not augmented."""
        return *self.texts.batch(index_B), self.targets[index_B]


@dataclass
class LabelledData(Data):
    """The splits, with the labels' names and what reads a text."""

    labels: list[str]
    reader: Reader
    valid_texts: Sequence[str]
    test_texts: Sequence[str]
    train_prints: Tensor
    """Fingerprints of the training texts."""
    test_languages: Sequence[str] = ()
    """The language of each test text; none where the data do not say."""


def load(config: Config) -> LabelledData:
    """Reads, splits and numbers the data; tokenizer and n-grams are learned from the training split alone.

    Raises ValueError for a file that is missing, empty or broken, saying where, and for too few rows or labels.
    """
    if config.stream:
        from pipelines.sentiment import streaming

        return streaming.load(config)
    rows = rows_of(config)
    texts, names = [text[: config.max_characters] for text, _, _ in rows], [label for _, label, _ in rows]
    labels = sorted(set(names), key=order)
    name = config.data or config.dataset
    if len(set(texts)) < LEAST_TEXTS:
        raise ValueError(
            f"{name!r} has {len(set(texts))} different texts; the least that can be split is {LEAST_TEXTS}"
        )
    if len(labels) < 2:
        raise ValueError(f"every row of {name!r} has the label {labels[0]!r}; at least two labels are needed")
    numbers = {label: number for number, label in enumerate(labels)}
    label_N = torch.tensor([numbers[label] for label in names])
    parts = split(texts, config.seed)
    reader = reader_of(config, [texts[row] for row in parts[0]])
    train, valid, test = (Labelled(reader.read([texts[row] for row in part]), label_N[part]) for part in parts)
    content = digest(*(part.encode() for row in rows for part in row[:2]))
    valid_texts, test_texts = ([texts[row] for row in part] for part in parts[1:])
    prints = prints_of([texts[row] for row in parts[0]])
    languages = [rows[row][2] for row in parts[2]] if config.language_column else []
    return LabelledData(train, valid, test, content, name, labels, reader, valid_texts, test_texts, prints, languages)


def rows(found: list[Any], config: Config, data: LabelledData) -> Labelled:
    """Makes examples of texts or {text, label} rows, for a look at them; a text without a label gets the first one.

    Raises ValueError for a row that is neither, or whose label is none of the data's.
    """
    texts, targets = [], []
    for number, row in enumerate(found, 1):
        text = row.get(config.text_column, row.get("text")) if isinstance(row, dict) else row
        label = (
            row.get(config.label_column, row.get("label", data.labels[0])) if isinstance(row, dict) else data.labels[0]
        )
        if not isinstance(text, str):
            raise ValueError(f"row {number} is neither a text nor a row with a {config.text_column!r}")
        if str(label) not in data.labels:
            raise ValueError(f"row {number} has the label {label!r}; there are {', '.join(data.labels)}")
        texts.append(clean(text)[: config.max_characters])
        targets.append(data.labels.index(str(label)))
    return Labelled(data.reader.read(texts), torch.tensor(targets))


def inputs(data: LabelledData) -> list[str]:
    """Gives texts of the validation split as a caller would send them."""
    return [data.valid_texts[at] for at in reference.spread(len(data.valid_texts))]


def test_inputs(data: LabelledData, places: list[int]) -> list[str]:
    """Gives some texts of the test split as a caller would send them."""
    return [data.test_texts[at] for at in places]


def slices(data: LabelledData) -> dict[str, list[str]]:
    """Sorts the test split's texts by length, and by language or, where the data do not say it, by script."""
    sizes = [len(text) for text in data.test_texts]
    if data.test_languages:
        tongues = {"language": [*data.test_languages]}
    else:
        tongues = {"script": [script(text) for text in data.test_texts]}
    return {**tongues, "length": bands(sizes, LENGTHS, "characters")}


def fingerprints(data: LabelledData) -> tuple[Tensor, Tensor]:
    """Gives the fingerprints of the texts that are learned from, validation among them, and of the test split's."""
    return torch.cat([data.train_prints, prints_of(data.valid_texts)]), prints_of(data.test_texts)


def prints_of(texts: Iterable[str]) -> Tensor:
    """Gives the fingerprints of texts; int64."""
    return examples.fingerprints(text.encode("utf-8", "surrogatepass") for text in texts)


def script(text: str) -> str:
    """Names the script of most of a text's letters by the first word of their Unicode names, as latin or cjk."""
    names = (unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    common = Counter(name for name in names if name).most_common(1)
    return common[0][0].lower() if common else "no letters"


def rows_of(config: Config) -> list[table.Row]:
    """Reads the rows that the configuration names, in the order of the files."""
    if config.data:
        return table.read(Path(config.data), config.columns)
    return [row for file in SAMPLE_FILES for row in table.read(SAMPLE / file, ("text", "label"))]


def split(texts: list[str], seed: int) -> tuple[list[int], list[int], list[int]]:
    """Gives the row numbers of train, valid and test; a text that occurs twice is in one split only."""
    first = {text: at for at, text in enumerate(dict.fromkeys(texts))}
    order = permutation(seed, -1, len(first))
    train_end, valid_end = int(len(first) * TRAIN), int(len(first) * (TRAIN + VALID))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(first))
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for row, text in enumerate(texts):
        at = int(place[first[text]])
        parts[(at >= train_end) + (at >= valid_end)].append(row)
    return parts


def reader_of(config: Config, train: list[str]) -> Reader:
    """Learns a tokenizer and n-grams from training texts, or takes the encoder's tokenizer."""
    if config.encoder:
        tokenizer, max_tokens = encoder.tokenizer(config.encoder, config.max_tokens)
        return Reader(tokenizer, np.zeros(0, dtype=np.int64), max_tokens)
    keys_V = ngrams.choose([ngrams.extract(text) for text in train], config.ngrams)
    return Reader(bpe.learn(train, config.vocabulary), keys_V, config.max_tokens)


def order(label: str) -> tuple[int, int, str]:
    """Gives what labels are sorted by: whole numbers by value, before words."""
    digits = label.removeprefix("-")
    return (0, int(label), label) if digits.isascii() and digits.isdigit() else (1, 0, label)
