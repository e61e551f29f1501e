"""Mean squared error. Shapes: B points of a batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional

PRIMARY = "negative_mse"


def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Compares predictions with y; the mean over the batch."""
    x_B1, y_B1 = batch
    return functional.mse_loss(network(x_B1), y_B1)


def measure(network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Sums squared errors and counts points."""
    x_B1, y_B1 = batch
    errors_B1 = (network(x_B1) - y_B1).double()
    return {"squared": (errors_B1**2).sum(), "count": torch.tensor(float(len(x_B1)), device=x_B1.device).double()}


def metrics(sums: dict[str, Tensor]) -> dict[str, float]:
    """Gives the mean squared error, and its negative since higher is better."""
    mse = float(sums["squared"] / sums["count"])
    return {"loss": mse, "negative_mse": -mse}
