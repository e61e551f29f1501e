"""What the loop learns by and measures: the likelihood of hidden items, and full rankings of all items.

Shapes: B users of a batch, I items.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.recommender import ranking
from pipelines.recommender.baselines import baselines
from pipelines.recommender.data import Batch
from pipelines.recommender.network import FAR

__all__ = ["PRIMARY", "STATIC_GRAPH", "baselines", "loss", "measure", "metrics"]
PRIMARY = "ndcg_at_10"
STATIC_GRAPH = True


def loss(network: nn.Module, batch: Batch) -> Tensor:
    """Mean over users of the cross entropy between their hidden items and a softmax over all they are not seen to have.

    Liang et al., "Variational Autoencoders for Collaborative Filtering", 2018, with each user weighing the same.
    """
    return _cross_entropy(network(batch.seen), batch).mean()


def _cross_entropy(scores_BI: Tensor, batch: Batch) -> Tensor:
    shares_BI = batch.targets / batch.targets.sum(1, keepdim=True).clamp(min=1)
    logs_BI = functional.log_softmax(scores_BI.float() - FAR * batch.seen, dim=1)
    return -(logs_BI * shares_BI).sum(1)


@torch.no_grad()
def measure(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Sums the loss and the ranking metrics over a batch's users."""
    scores_BI = network(batch.seen)
    return {"loss": _cross_entropy(scores_BI, batch).double().sum(), **ranking.sums(scores_BI, batch)}


def metrics(sums: dict[str, Tensor]) -> dict[str, float]:
    """Turns the summed statistics into means over users."""
    return {"loss": float(sums["loss"] / sums["count"]), **ranking.metrics(sums)}
