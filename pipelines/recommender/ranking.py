"""Full rankings of all items, and the sums their metrics are made of.

Shapes: B users of a batch, I items, K places of a ranking.
"""

import torch
from torch import Tensor

from pipelines.recommender.data import Batch

PLACES = 10
"""How many of the best items count."""


def sums(scores_BI: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Sums NDCG, recall, precision and hits of the best items over users, and counts how often an item is among them.

    Every item is ranked, except those the user has. The ideal ranking of NDCG has a user's hidden items in front;
    recall is over at most as many of them as there are places.
    """
    top_BK = scores_BI.float().masked_fill(batch.seen > 0, float("-inf")).topk(PLACES, dim=1).indices
    hits_BK = batch.targets.gather(1, top_BK).double()
    gains_K = 1 / torch.log2(torch.arange(PLACES, device=scores_BI.device, dtype=torch.float64) + 2)
    wanted_B = batch.targets.sum(1).long().clamp(1, PLACES)
    found_B = hits_BK.sum(1)
    return {
        "ndcg": ((hits_BK @ gains_K) / gains_K.cumsum(0)[wanted_B - 1]).sum(),
        "recall": (found_B / wanted_B).sum(),
        "precision": (found_B / PLACES).sum(),
        "hit": (found_B > 0).double().sum(),
        "shown": torch.bincount(top_BK.flatten(), minlength=scores_BI.shape[1]).double(),
        "count": torch.tensor(float(len(top_BK)), dtype=torch.float64, device=scores_BI.device),
    }


def metrics(total: dict[str, Tensor]) -> dict[str, float]:
    """Divides the sums by the users; coverage is the share of the catalogue that is among anyone's best."""
    means = {f"{name}_at_{PLACES}": total[name] / total["count"] for name in ("ndcg", "recall", "precision", "hit")}
    means["coverage"] = (total["shown"] > 0).double().mean()
    return {name: float(value) for name, value in means.items()}
