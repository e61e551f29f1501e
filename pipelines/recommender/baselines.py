"""The rankings to beat: popularity, and the closed-form linear autoencoder EASE.

Shapes: U users, B users of a batch, I items, J items that somebody has.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from pipelines.examples import Split
from pipelines.recommender import ranking
from pipelines.recommender.config import Config
from pipelines.recommender.data import RecommenderData, Users
from pipelines.recommender.histories import Histories

PENALTIES = (30.0, 100.0, 300.0, 1000.0)
"""What EASE's L2 penalty is chosen from, on the validation split."""
LARGEST = 20_000
"""Rows of the largest matrix that is inverted."""
CHUNK = 512
Scores = Callable[[Tensor], Tensor]
"""Scores all items for the users at index_B; [B, I]."""
log = logging.getLogger(__name__)


def baselines(data: RecommenderData, config: Config) -> dict[str, float]:
    """Measures popularity and EASE on the test split, both learned from the training and validation splits.

    EASE's penalty is the one of PENALTIES that is best on the validation split when learned from the training split.
    """
    count = len(data.catalogue)
    found = {"popularity_ndcg_at_10": _ndcg(popularity(data.known, count), data.test)}
    if min(len(data.user_ids), len(data.learned.items.unique())) > LARGEST:
        log.warning("more than %d users and items: the EASE baseline is left out", LARGEST)
        return found
    penalty = max(PENALTIES, key=lambda penalty: _ndcg(ease(data.learned, count, penalty), data.valid))
    return {**found, "ease_ndcg_at_10": _ndcg(ease(data.known, count, penalty), data.test), "ease_penalty": penalty}


def popularity(histories: Histories, count: int) -> Scores:
    """Scores each of `count` items by how many users have it."""
    popularity_I = histories.popularity(count)
    return lambda index_B: popularity_I.expand(len(index_B), count)


def ease(histories: Histories, count: int, penalty: float) -> Scores:
    """Learns from users, and scores `count` items for the same users; items that nobody has score 0.

    H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", 2019: item-item weights W of zero diagonal
    that minimise |X - XW|^2 + penalty |W|^2 are W = I - P / diag(P), with P = (X'X + penalty)^-1. Scores are XW.
    With fewer users than items the smaller XX' is inverted, by XP = (XX' + penalty)^-1 X; both ways are exact.
    """
    present_J = (histories.popularity(count) > 0).nonzero().flatten()
    scores_JX = _few_users if len(histories) < len(present_J) else _few_items
    scores = scores_JX(histories, present_J, count, penalty)

    def all_items(index_B: Tensor) -> Tensor:
        scores_BI = torch.zeros(len(index_B), count)
        scores_BI[:, present_J] = scores(index_B)
        return scores_BI

    return all_items


def _few_users(histories: Histories, present_J: Tensor, count: int, penalty: float) -> Scores:
    history_UJ = histories.dense(torch.arange(len(histories)), count)[:, present_J]
    gram_UU = history_UJ @ history_UJ.T
    gram_UU.diagonal().add_(penalty)
    projected_UJ = torch.cholesky_solve(history_UJ, torch.linalg.cholesky(gram_UU))
    scaled_J = (1 - (history_UJ * projected_UJ).sum(0)) / penalty  # the diagonal of P
    scores_UJ = history_UJ - projected_UJ / scaled_J
    return lambda index_B: scores_UJ[index_B]


def _few_items(histories: Histories, present_J: Tensor, count: int, penalty: float) -> Scores:
    gram_JJ = torch.zeros(len(present_J), len(present_J))
    for index_B in torch.arange(len(histories)).split(CHUNK):
        history_BJ = histories.dense(index_B, count)[:, present_J]
        gram_JJ += history_BJ.T @ history_BJ
    gram_JJ.diagonal().add_(penalty)
    inverse_JJ = torch.cholesky_inverse(torch.linalg.cholesky(gram_JJ))
    weights_JJ = inverse_JJ / -inverse_JJ.diagonal()
    weights_JJ.fill_diagonal_(0.0)
    return lambda index_B: histories.dense(index_B, count)[:, present_J] @ weights_JJ


def _ndcg(scores: Scores, split: Split) -> float:
    """Ranks all items for a split's users."""
    assert isinstance(split, Users), "the recommender's splits hold users"
    parts = []
    for index_B in torch.arange(len(split)).split(CHUNK):
        parts.append(ranking.sums(scores(split.index[index_B]), split.batch(index_B, None)))
    return ranking.metrics({name: sum(part[name] for part in parts) for name in parts[0]})["ndcg_at_10"]  # type: ignore[arg-type]
