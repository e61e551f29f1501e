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
from pipelines.recommender.data import Batch, RecommenderData, tested
from pipelines.recommender.network import FAR

__all__ = ["PRIMARY", "STATIC_GRAPH", "baselines", "examined", "graded", "groups", "loss", "measure", "metrics"]
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


def measure(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Sums the loss and the ranking metrics over a batch's users."""
    return examined(network, batch)[0]


@torch.no_grad()
def examined(network: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gives the sums of `measure`, and each user's own metrics beside them."""
    scores_BI = network(batch.seen)
    total, own = ranking.examined(scores_BI, batch)
    return {"loss": _cross_entropy(scores_BI, batch).double().sum(), **total}, own


def graded(data: RecommenderData, places: list[int], predictions: list[Any]) -> dict[str, list[float]]:
    """Gives each user's metrics of what a model recommended to some users of the test split; 0 for an error."""
    held_U = data.held_back.dense(tested(data)[torch.tensor(places)], len(data.catalogue))
    place = {item.id: at for at, item in enumerate(data.catalogue)}
    hits_BK = torch.zeros(len(places), ranking.PLACES, dtype=torch.float64)
    for row, prediction in enumerate(predictions):
        if not isinstance(prediction, Exception):
            for column, (key, *_) in enumerate(prediction.items[: ranking.PLACES]):
                hits_BK[row, column] = held_U[row, place[key]] if key in place else 0.0
    own = ranking.each(hits_BK, held_U.sum(1))
    return {f"{name}_at_{ranking.PLACES}": value_B.tolist() for name, value_B in own.items()}


def metrics(sums: dict[str, Tensor]) -> dict[str, float]:
    """Turns the summed statistics into means over users."""
    return {"loss": float(sums["loss"] / sums["count"]), **ranking.metrics(sums)}
