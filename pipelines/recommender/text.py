"""Turns an item's title, authors and genres into hashed, weighted features.

Shapes: I items, F features of all items one after another.
"""

import math
import re
import zlib
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.recommender.tables import Item


@dataclass(frozen=True)
class Bags:
    """The features of every item: those of item i lie at offsets[i] to offsets[i + 1]."""

    offsets: Tensor
    """int64 [I + 1]."""
    features: Tensor
    """int64 [F], rows of the table of word vectors."""
    weights: Tensor
    """float32 [F], inverse document frequencies, of length 1 for each item."""


def words(item: Item) -> list[str]:
    """Lists what an item's text says, each with its field: words, the series, whole authors, genres.

    A series is what goodbooks writes into a title's brackets: "Inferno (Robert Langdon, #4)".
    """
    found = [f"title {word}" for word in re.findall(r"\w+", item.title.lower())]
    found += [f"series {name.strip(' ,')}" for name in re.findall(r"[(;]\s*([^();#]+)#", item.title.lower())]
    found += ["author " + " ".join(re.findall(r"\w+", author.lower())) for author in item.authors]
    found += [f"genre {genre.lower()}" for genre in item.genres]
    return sorted(set(found))


def bags(items: list[Item], buckets: int) -> Bags:
    """Hashes the words of all items into `buckets` features; a rare word weighs more (tf-idf, L2 normalised)."""
    hashed = [sorted({zlib.crc32(word.encode()) % buckets for word in words(item)}) for item in items]
    documents = Counter(feature for bag in hashed for feature in bag)
    weights: list[float] = []
    for bag in hashed:
        row = [math.log(1 + len(items) / documents[feature]) for feature in bag]
        norm = math.sqrt(sum(weight * weight for weight in row))
        weights += [weight / norm for weight in row]
    sizes_I = torch.tensor([0] + [len(bag) for bag in hashed])
    features_F = torch.tensor([feature for bag in hashed for feature in bag], dtype=torch.int64)
    return Bags(sizes_I.cumsum(0), features_F, torch.tensor(weights, dtype=torch.float32))
