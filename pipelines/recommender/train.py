"""What the loop learns by and measures: each item guessed from the others, and full rankings of all items.

Shapes: B users of a batch, I items.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.recommender import ranking
from pipelines.recommender.baselines import baselines
from pipelines.recommender.config import Config
from pipelines.recommender.data import Batch
from pipelines.recommender.network import FAR

__all__ = ["PRIMARY", "STATIC_GRAPH", "baselines", "groups", "loss", "measure", "metrics"]
PRIMARY = "ndcg_at_10"
STATIC_GRAPH = True


def loss(network: nn.Module, batch: Batch) -> Tensor:
    """Mean over users of the cross entropy with which each of their items is picked among all they do not have.

    The network leaves an item out of what it is scored by, as EASE's zero diagonal does, so that every item of a
    history is guessed in one pass. Each user weighs the same, as do a user's items.
    """
    return _cross_entropy(network(batch.seen), batch).mean()


def groups(network: nn.Module, config: Config) -> list[dict[str, Any]]:
    """Spares the items' biases, which start from their popularity, the weight decay."""
    learned = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    biases = [weight for name, weight in learned.items() if name.endswith("bias")]
    vectors = [weight for name, weight in learned.items() if not name.endswith("bias")]
    return [{"params": vectors}, {"params": biases, "weight_decay": 0.0}]


def _cross_entropy(scores_BI: Tensor, batch: Batch) -> Tensor:
    scores_BI = scores_BI.float()
    owned_BI = (batch.seen + batch.targets) > 0
    others_B1 = scores_BI.masked_fill(owned_BI, -FAR).logsumexp(1, keepdim=True)
    losses_BI = functional.softplus(others_B1 - scores_BI) * batch.targets  # a target against all others
    return losses_BI.sum(1) / batch.targets.sum(1).clamp(min=1)


@torch.no_grad()
def measure(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Sums the loss and the ranking metrics over a batch's users."""
    scores_BI = network(batch.seen)
    return {"loss": _cross_entropy(scores_BI, batch).double().sum(), **ranking.sums(scores_BI, batch)}


def metrics(sums: dict[str, Tensor]) -> dict[str, float]:
    """Turns the summed statistics into means over users."""
    return {"loss": float(sums["loss"] / sums["count"]), **ranking.metrics(sums)}
