"""From texts to the numbers a network reads; the same when training and when serving.

Shapes: B texts of a batch, N of a split, T tokens of the longest text, G n-grams of all texts of a batch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from pipelines.sentiment import ngrams

UNKNOWN = "[UNK]"
"""The token of what a pretrained tokenizer does not know, by BERT's custom; byte-level ones know everything."""
PADDING = -1
"""Stands in token tensors where a text has ended."""
CALL_TOKENS = 40
"""How many tokens of padding cost an encoder on a CPU what one more call of it costs."""


def clean(text: str) -> str:
    """Folds runs of white space, which say nothing, into single spaces.

    Raises ValueError when nothing is left, or when the text holds half a surrogate pair.
    """
    plain = " ".join(text.split())
    if not plain:
        raise ValueError("the text is empty or blank; it needs at least one visible character")
    try:
        plain.encode()
    except UnicodeEncodeError as problem:
        raise ValueError(
            "the text holds half a surrogate pair, which is no valid Unicode; send UTF-8 text"
        ) from problem
    return plain


@dataclass
class Texts:
    """Texts as flat tensors, each text a run that starts where the one before it ends."""

    tokens: Tensor
    token_ends: Tensor
    grams: Tensor
    gram_ends: Tensor

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text; int64 [N]."""
        return self.token_ends.diff(prepend=self.token_ends.new_zeros(1))

    def to(self, device: torch.device) -> "Texts":
        """Moves the tensors to a device."""
        return Texts(*(part.to(device) for part in (self.tokens, self.token_ends, self.grams, self.gram_ends)))

    def batch(self, index_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Takes texts: tokens [B, T], filled up with PADDING; n-grams [G]; where each text's n-grams start [B]."""
        starts_B, counts_B = _runs(self.token_ends, index_B)
        column_T = torch.arange(int(counts_B.max()), device=index_B.device)
        inside_BT = column_T < counts_B[:, None]
        tokens_BT = self.tokens[(starts_B[:, None] + column_T).clamp(max=len(self.tokens) - 1)].long()
        starts_B, counts_B = _runs(self.gram_ends, index_B)
        offsets_B = counts_B.cumsum(0) - counts_B
        place_G = torch.repeat_interleave(starts_B - offsets_B, counts_B)
        place_G = place_G + torch.arange(len(place_G), device=index_B.device)
        return tokens_BT.masked_fill(~inside_BT, PADDING), self.grams[place_G].long(), offsets_B


def alike(lengths_B: Tensor) -> list[Tensor]:
    """Groups texts by length where that saves more padding than more calls cost; indices, int64.

    Again and again the group is cut where its shorter texts would save the most.
    """
    found, waiting = [], [lengths_B.sort().indices]
    while waiting:
        group_B = waiting.pop()
        sorted_B = lengths_B[group_B]
        saved_B = torch.arange(1, len(group_B) + 1, device=lengths_B.device) * (sorted_B[-1] - sorted_B)
        place = int(saved_B.argmax())
        if int(saved_B[place]) > CALL_TOKENS:
            waiting += [group_B[: place + 1], group_B[place + 1 :]]
        else:
            found.append(group_B)
    return found


class Reader:
    """A tokenizer and a vocabulary of n-grams; an encoder's reader knows no n-grams."""

    def __init__(self, tokenizer: Tokenizer, keys_V: NDArray[np.int64], max_tokens: int) -> None:
        """Takes a trained tokenizer and ascending hashes of n-grams; texts are cut after `max_tokens`."""
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self.tokenizer, self.keys_V, self.max_tokens = tokenizer, keys_V, max_tokens

    def read(self, texts: list[str]) -> Texts:
        """Reads cleaned texts, one or more."""
        tokens = [np.array(entry.ids, dtype=np.int32) for entry in self.tokenizer.encode_batch(texts)]
        grams = [np.zeros(0, dtype=np.int32)] * len(texts)
        if len(self.keys_V):
            grams = [ngrams.find(self.keys_V, ngrams.extract(text)).astype(np.int32) for text in texts]
        return Texts(*_flatten(tokens), *_flatten(grams))

    def unknown(self, texts: list[str]) -> dict[str, list[float]]:
        """Gives the tokens of cleaned texts and the share of their n-grams, or else tokens, that it does not know."""
        tokens = [self.tokenizer.encode(text).tokens for text in texts]
        lengths = [float(len(found)) for found in tokens]
        if len(self.keys_V):
            grams = [ngrams.extract(text) for text in texts]
            shares = [1 - len(ngrams.find(self.keys_V, one_G)) / len(one_G) for one_G in grams]
            return {"tokens": lengths, "unknown_ngrams": shares}
        shares = [found.count(UNKNOWN) / max(1, len(found)) for found in tokens]
        return {"tokens": lengths, "unknown_tokens": shares}

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json and ngrams.safetensors."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        save_file({"keys": self.keys_V}, folder / "ngrams.safetensors")

    @classmethod
    def load(cls, folder: Path, max_tokens: int) -> "Reader":
        """Reads what `save` wrote."""
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(tokenizer, load_file(folder / "ngrams.safetensors")["keys"], max_tokens)


def _runs(ends_N: Tensor, index_B: Tensor) -> tuple[Tensor, Tensor]:
    """Gives where the texts at `index_B` start in the flat tensor, and how long they are; reads no other ends."""
    starts_B = torch.where(index_B > 0, ends_N[index_B - 1], 0)
    return starts_B, ends_N[index_B] - starts_B


def _flatten(parts: list[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    ends_N = torch.tensor([len(part) for part in parts], dtype=torch.int64).cumsum(0)
    return torch.from_numpy(np.concatenate(parts)), ends_N
