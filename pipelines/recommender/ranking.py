"""Full rankings of all items, and the sums their metrics are made of.

Shapes: B users of a batch, I items, K places of a ranking.
"""

import torch
from torch import Tensor

from pipelines.recommender.data import Batch

PLACES = 10
"""How many of the best items count."""


def best(scores_BI: Tensor, batch: Batch) -> Tensor:
    """Ranks every item, except those the user has; places of the best in the catalogue [B, K]."""
    return scores_BI.float().masked_fill(batch.seen > 0, float("-inf")).topk(PLACES, dim=1).indices


def each(hits_BK: Tensor, wanted_B: Tensor) -> dict[str, Tensor]:
    """Gives each user's NDCG, recall, precision and hit; float64 [B].

    `hits_BK` is 1 where a place holds an item that was held back, `wanted_B` counts those. The ideal ranking of NDCG
    has a user's hidden items in front; recall is over at most as many of them as there are places.
    """
    gains_K = 1 / torch.log2(torch.arange(PLACES, device=hits_BK.device, dtype=torch.float64) + 2)
    wanted_B, found_B = wanted_B.long().clamp(1, PLACES), hits_BK.sum(1)
    return {
        "ndcg": (hits_BK @ gains_K) / gains_K.cumsum(0)[wanted_B - 1],
        "recall": found_B / wanted_B,
        "precision": found_B / PLACES,
        "hit": (found_B > 0).double(),
    }


def examined(scores_BI: Tensor, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums the metrics of the best items over users, and counts how often an item is among them.

    Beside the sums it gives each user's own metrics.
    """
    top_BK = best(scores_BI, batch)
    own = each(batch.targets.gather(1, top_BK).double(), batch.targets.sum(1))
    total = {name: value_B.sum() for name, value_B in own.items()}
    total["shown"] = torch.bincount(top_BK.flatten(), minlength=scores_BI.shape[1]).double()
    total["count"] = torch.tensor(float(len(top_BK)), dtype=torch.float64, device=scores_BI.device)
    return total, {f"{name}_at_{PLACES}": value_B for name, value_B in own.items()}


def sums(scores_BI: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Gives the sums of `examined` alone."""
    return examined(scores_BI, batch)[0]


def metrics(total: dict[str, Tensor]) -> dict[str, float]:
    """Divides the sums by the users; coverage is the share of the catalogue that is among anyone's best."""
    means = {f"{name}_at_{PLACES}": total[name] / total["count"] for name in ("ndcg", "recall", "precision", "hit")}
    means["coverage"] = (total["shown"] > 0).double().mean()
    return {name: float(value) for name, value in means.items()}
