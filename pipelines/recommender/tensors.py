"""Queries and recommendations as tensors. Shapes: B queries, K items of the longest recommendation."""

import json

import numpy as np

from pipelines.schema import Arrays, Schema, Tensor

DEFAULT_K = 10
MOST_ITEM_IDS = 1_000


class UnreadableError(ValueError):
    """Says which tensor of a query is wrong, and how: `empty`, `no list` or `too many`."""

    def __init__(self, tensor: str, problem: str, text: str) -> None:
        """Takes both beside the text."""
        super().__init__(text)
        self.tensor, self.problem = tensor, problem


def schema(item_count: int) -> Schema:
    """Describes the tensors of a catalogue of so many items; each input may be left out, if user or items are named."""
    return Schema(
        (
            Tensor("user_id", "BYTES", (-1,), content="text", optional=True),
            Tensor("item_ids", "BYTES", (-1,), content="json", optional=True),
            Tensor("k", "INT64", (-1,), lowest=1, highest=item_count, optional=True),
        ),
        (Tensor("item_ids", "BYTES", (-1, -1), content="text"), Tensor("scores", "FP32", (-1, -1))),
    )


def read(arrays: Arrays) -> list[tuple[str, list[str], int] | UnreadableError]:
    """Reads user id, item ids and k of each query, or the UnreadableError that says what is wrong with it.

    Each element of item_ids is a JSON list of ids, since the queries of a batch may name different numbers of items;
    an empty text stands for an empty list.
    """
    count = len(next(iter(arrays.values())))
    users = arrays["user_id"].tolist() if "user_id" in arrays else [""] * count
    items = [_ids(text) for text in arrays["item_ids"].tolist()] if "item_ids" in arrays else [[]] * count
    ks = arrays["k"].tolist() if "k" in arrays else [DEFAULT_K] * count
    return [_query(user, ids, k) for user, ids, k in zip(users, items, ks, strict=True)]


def write(recommendations: list[list[tuple[str, float, str]]]) -> Arrays:
    """Gives item ids [B, K] and scores [B, K], best first; where none is left, an empty id and a score of NaN."""
    longest = max(len(items) for items in recommendations)
    ids_BK = np.full((len(recommendations), longest), "", dtype=object)
    scores_BK = np.full((len(recommendations), longest), np.nan, dtype=np.float32)
    for row, items in enumerate(recommendations):
        for column, (item_id, score, _) in enumerate(items):
            ids_BK[row, column], scores_BK[row, column] = item_id, score
    return {"item_ids": ids_BK, "scores": scores_BK}


def _query(user: str, ids: list[str] | UnreadableError, k: int) -> tuple[str, list[str], int] | UnreadableError:
    if isinstance(ids, UnreadableError):
        return ids
    if not user and not ids:
        return UnreadableError("user_id", "empty", "is empty; name a user, or in item_ids what the user likes")
    return user, ids, k


def _ids(text: str) -> list[str] | UnreadableError:
    try:
        ids = json.loads(text or "[]")
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        return UnreadableError("item_ids", "no list", 'is no JSON list of item ids, such as ["17", "4"]')
    if len(ids) > MOST_ITEM_IDS:
        return UnreadableError("item_ids", "too many", f"names {len(ids)} items; the most is {MOST_ITEM_IDS}")
    return ids
