"""The loss of an image classifier, and what is measured of it.

Shapes: B images of a batch, K classes, R bins of confidence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.classifier.data import Batch

PRIMARY = "accuracy"
STATIC_GRAPH = True
BIN_COUNT = 15
"""Bins of equal width in which confidence is held against correctness."""


def loss(network: nn.Module, batch: Batch) -> Tensor:
    """Computes the mean cross entropy with the batch's label smoothing."""
    logits_BK = network(batch.images)
    return F.cross_entropy(logits_BK.float(), batch.targets, label_smoothing=batch.smoothing)


def measure(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Sums, over a batch, what `metrics` needs; `loss` is without label smoothing.

    `confusion` is [K, K] (row: true, column: predicted), `reliability` [R, 3] (sum of confidence,
    number correct, count).
    """
    with torch.no_grad():
        logits_BK = network(batch.images).double()
    targets_B = batch.targets
    class_count = logits_BK.shape[1]
    confidence_B, predicted_B = logits_BK.softmax(1).max(1)
    correct_B = predicted_B == targets_B
    cells = torch.bincount(targets_B * class_count + predicted_B, minlength=class_count**2)
    bin_B = (confidence_B * BIN_COUNT).long().clamp(max=BIN_COUNT - 1)
    parts_B3 = torch.stack([confidence_B, correct_B.double(), torch.ones_like(confidence_B)], 1)
    return {
        "loss": F.cross_entropy(logits_BK, targets_B, reduction="sum"),
        "correct": correct_B.double().sum(),
        "count": torch.tensor(float(len(targets_B)), dtype=torch.float64, device=targets_B.device),
        "confusion": cells.double().view(class_count, class_count),
        "reliability": parts_B3.new_zeros(BIN_COUNT, 3).index_add(0, bin_B, parts_B3),
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
    confidence_R, correct_R, _ = sums["reliability"].unbind(1)
    return {
        "loss": float(sums["loss"] / count),
        "accuracy": float(sums["correct"] / count),
        "macro_f1": float(f1_K.sum() / (both_K > 0).sum()),
        "ece": float((confidence_R - correct_R).abs().sum() / count),
    }
