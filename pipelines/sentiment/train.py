"""What the loop minimises and measures.

Shapes: B texts of a batch, C labels, R bins of the reliability diagram.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines import calibration
from pipelines.sentiment.config import Config
from pipelines.sentiment.networks import Scratch

PRIMARY = "accuracy"
SMOOTHING = 0.05
NEURAL = 0.2
"""Learning rate of token embeddings, convolution and head from scratch, relative to the n-grams' rate."""
HEAD = 10.0
"""Learning rate of the head on top of an encoder, relative to the encoder's rate."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def loss(network: nn.Module, batch: Batch) -> Tensor:
    """Gives the mean cross entropy with smoothed labels (Szegedy et al., 2016), a scalar."""
    *inputs, label_B = batch
    return F.cross_entropy(network(*inputs).float(), label_B, label_smoothing=SMOOTHING)


def groups(network: nn.Module, config: Config) -> list[dict[str, Any]]:
    """Gives each part its own rate.

    From scratch, n-grams learn faster than the neural part, which would only memorise; on top of an
    encoder, which knows much already, the new head learns faster.
    """
    whole, part, factor = _parts(network)
    return [{"params": whole}, {"params": part, "lr": config.lr * factor}]


def _parts(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], float]:
    if isinstance(network, Scratch):
        return [network.ngrams], [weight for weight in network.parameters() if weight is not network.ngrams], NEURAL
    head = [weight for name, weight in network.named_parameters() if name.startswith("head.")]
    return [weight for name, weight in network.named_parameters() if not name.startswith("head.")], head, HEAD


def measure(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Gives sums over a batch: what `tally` makes of its logits and labels."""
    return tally(*scored(network, batch))


@torch.no_grad()
def scored(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Gives logits [B, C], float64, and the true labels [B]."""
    *inputs, label_B = batch
    return network(*inputs).double(), label_B


def tally(logits_BC: Tensor, label_B: Tensor) -> dict[str, Tensor]:
    """Sums loss, count, confusion [C, C] and reliability [R, 3], all float64."""
    label_count = logits_BC.shape[1]
    cells = torch.bincount(label_B * label_count + logits_BC.argmax(1), minlength=label_count**2)
    return {
        "loss": F.cross_entropy(logits_BC, label_B, reduction="sum"),
        "count": logits_BC.new_tensor(len(label_B)),
        "confusion": cells.double().view(label_count, label_count),
        "reliability": calibration.reliability(logits_BC, label_B),
    }


def metrics(sums: dict[str, Tensor]) -> dict[str, float]:
    """Gives accuracy, the mean F1 over labels that occur, mean loss, and expected calibration error.

    The last is the mean gap between confidence and accuracy, weighted by bin (Guo et al., 2017).
    """
    confusion, count = sums["confusion"], sums["count"]
    right_C, true_C, guessed_C = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    present_C = true_C + guessed_C > 0
    f1_C = 2 * right_C / (true_C + guessed_C).clamp(min=1)
    return {
        "accuracy": float(right_C.sum() / count),
        "macro_f1": float(f1_C[present_C].mean()),
        "loss": float(sums["loss"] / count),
        "ece": calibration.error(sums["reliability"]),
    }
