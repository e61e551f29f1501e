"""Cross entropy over even and odd. Shapes: B texts of a batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional

PRIMARY = "accuracy"
STATIC_GRAPH = False
"""The graph has as many steps as the batch's longest text has bits."""
Batch = tuple[Tensor, Tensor, Tensor]


def loss(network: nn.Module, batch: Batch) -> Tensor:
    """Compares the scores with the true parity; the mean over the batch."""
    bits_BL, lengths_B, odd_B = batch
    return functional.cross_entropy(network(bits_BL, lengths_B), odd_B)


def measure(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Sums the loss and counts right answers; the confusion matrix [2, 2] holds both counts."""
    bits_BL, lengths_B, odd_B = batch
    scores_B2 = network(bits_BL, lengths_B)
    cells_4 = torch.bincount(odd_B * 2 + scores_B2.argmax(1), minlength=4)
    return {
        "loss": functional.cross_entropy(scores_B2.double(), odd_B, reduction="sum"),
        "confusion": cells_4.view(2, 2).double(),
    }


def metrics(sums: dict[str, Tensor]) -> dict[str, float]:
    """Gives the mean loss and the share of right answers."""
    count = sums["confusion"].sum()
    return {"loss": float(sums["loss"] / count), "accuracy": float(sums["confusion"].trace() / count)}
