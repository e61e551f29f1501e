"""The network: an item is its text plus what behaviour adds; a user is the items they have.

Shapes: B users, I items, D length of a vector, H buckets of words.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.recommender.text import Bags

ITEM_START, WORD_START = 0.01, 0.15
"""Standard deviations of the first item and word vectors: an item begins as its text."""
UNKNOWN = 0.1
"""Quantile of popularity at which an item that nobody has starts."""
FAR = 1e4
"""What is taken off the score of an item that is no candidate."""


class Network(nn.Module):
    """Scores every item for users who are given as the items they have."""

    def __init__(self, bags: Bags, buckets: int, dim: int, dropout: float, item_dropout: float) -> None:
        """Makes an untrained network for the items that `bags` describes."""
        super().__init__()
        count = len(bags.offsets) - 1
        self.item_vectors = nn.Parameter(torch.randn(count, dim) * ITEM_START)
        self.item_bias = nn.Parameter(torch.zeros(count))
        self.word_vectors = nn.Parameter(torch.randn(buckets, dim) * WORD_START)
        self.dropout = nn.Dropout(dropout)
        self.item_dropout = item_dropout
        self.offsets = nn.Parameter(bags.offsets, requires_grad=False)
        self.features = nn.Parameter(bags.features, requires_grad=False)
        self.weights = nn.Parameter(bags.weights, requires_grad=False)
        self.learned = nn.Parameter(torch.zeros(count, 1, dtype=torch.bool), requires_grad=False)

    def start(self, popularity_I: Tensor) -> None:
        """Starts from the items' popularity in training; items that nobody has are known by their text alone.

        Such an item counts as popular as the tenth percentile of the others. Words that only such items have
        will never be learned, so they say nothing from the start.
        """
        self.learned.copy_(popularity_I[:, None] > 0)
        prior_I = popularity_I.clamp(min=1).log()
        known_I = popularity_I > 0
        unknown = prior_I[known_I].quantile(UNKNOWN)
        known_F = known_I.repeat_interleave(self.offsets.diff())
        known_H1 = torch.zeros(len(self.word_vectors), 1, dtype=torch.bool)
        known_H1[self.features[known_F]] = True
        with torch.no_grad():
            self.item_bias.copy_(torch.where(known_I, prior_I, unknown) - prior_I[known_I].mean())
            self.item_vectors.mul_(self.learned)
            self.word_vectors.mul_(known_H1)

    def items(self) -> Tensor:
        """Gives every item's vector [I, D]; in training some are known by their text alone."""
        keep_I1 = self.learned.float()
        if self.training and self.item_dropout:
            keep_I1 = keep_I1 * (torch.rand_like(keep_I1) >= self.item_dropout)
        text_ID = functional.embedding_bag(
            self.features,
            self.word_vectors,
            self.offsets,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )
        return self.item_vectors * keep_I1 + text_ID

    def forward(self, seen_BI: Tensor) -> Tensor:
        """Scores all items for users of whom `seen_BI` marks the items they have; logits [B, I].

        An item that the user has is scored by the user's other items. In training an item that nobody has is no
        candidate, lest it be learned that nobody wants it.
        """
        vectors_ID = self.items()
        count_B1 = seen_BI.sum(1, keepdim=True)
        scores_BI = self.users(seen_BI @ vectors_ID, count_B1) @ vectors_ID.T + self.item_bias
        own_I = vectors_ID.square().sum(1)
        scores_BI = scores_BI - seen_BI * own_I / count_B1.clamp(min=1).sqrt()
        return scores_BI.masked_fill(~self.learned.T, -FAR) if self.training else scores_BI

    def users(self, sum_BD: Tensor, count_B1: Tensor) -> Tensor:
        """Turns the sum of a user's item vectors into the user's vector [B, D]."""
        return self.dropout(sum_BD / count_B1.clamp(min=1).sqrt())
