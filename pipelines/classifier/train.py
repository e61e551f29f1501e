"""The loss of an image classifier, and what is measured of it.

Shapes: B images of a batch, K classes, R bins of confidence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines import calibration
from pipelines.classifier.data import Batch

PRIMARY = "accuracy"
STATIC_GRAPH = True


def loss(network: nn.Module, batch: Batch) -> Tensor:
    """Computes the mean cross entropy with the batch's label smoothing."""
    logits_BK = network(batch.images)
    return F.cross_entropy(logits_BK.float(), batch.targets, label_smoothing=batch.smoothing)


def measure(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Sums, over a batch, what `metrics` needs; `loss` is without label smoothing."""
    return tally(*scored(network, batch))


@torch.no_grad()
def scored(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Gives logits [B, K], float64, and the true classes [B]."""
    return network(batch.images).double(), batch.targets


def tally(logits_BK: Tensor, targets_B: Tensor) -> dict[str, Tensor]:
    """Sums what `metrics` needs.

    `confusion` is [K, K] (row: true, column: predicted), `reliability` [R, 3] (sum of confidence,
    number correct, count).
    """
    class_count = logits_BK.shape[1]
    predicted_B = logits_BK.argmax(1)
    cells = torch.bincount(targets_B * class_count + predicted_B, minlength=class_count**2)
    return {
        "loss": F.cross_entropy(logits_BK, targets_B, reduction="sum"),
        "correct": (predicted_B == targets_B).double().sum(),
        "count": torch.tensor(float(len(targets_B)), dtype=torch.float64, device=targets_B.device),
        "confusion": cells.double().view(class_count, class_count),
        "reliability": calibration.reliability(logits_BK, targets_B),
    }


def metrics(sums: dict[str, Tensor]) -> dict[str, float]:
    """Turns the sums of `measure` into loss, accuracy, macro F1 and expected calibration error.

    A class that is neither present nor predicted does not count towards macro F1. The error is that of
    Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    count = sums["count"]
    confusion = sums["confusion"]
    both_K = confusion.sum(0) + confusion.sum(1)
    f1_K = 2 * confusion.diag() / both_K.clamp(min=1)
    return {
        "loss": float(sums["loss"] / count),
        "accuracy": float(sums["correct"] / count),
        "macro_f1": float(f1_K.sum() / (both_K > 0).sum()),
        "ece": calibration.error(sums["reliability"]),
    }
