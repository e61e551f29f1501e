"""Confidence that means what it says: one temperature, fitted on the validation split (Guo et al., 2017).

Dividing logits by a positive number changes how sure a model is and never which label is first.
Shapes: B examples of a batch, N of a rank's share of a split, C labels, R bins of confidence.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pipelines import collectives

BIN_COUNT = 15
"""Bins of equal width in which confidence is held against correctness."""
EXTREME = 20.0
"""Temperatures are sought between 1 / EXTREME and EXTREME."""
HALVINGS = 24
"""Brings the temperature's relative error below 1e-6."""
DIGITS = 5
"""Decimals that are kept, coarser than what the order of an addition over ranks can change."""


def fit(parts: list[tuple[Tensor, Tensor]], world: int, device: torch.device) -> float:
    """Finds the temperature with the least mean cross entropy on logits [B, C] and true labels [B].

    Every rank gives its own share, which may be empty, and gets the same number. As Platt (1999) did, the targets
    are smoothed, by as much as one example that could be anything: a few examples that are all right would else
    ask for boundless confidence. The loss is convex in 1 / temperature, so halving an interval finds its least.
    """
    own_count = sum(len(label_B) for _, label_B in parts)
    count = collectives.sum_over_ranks(torch.tensor(float(own_count), dtype=torch.float64, device=device), world)
    doubt = 1 / (float(count) + 1)
    wanted = sum((_wanted(*part, doubt) for part in parts), torch.zeros((), dtype=torch.float64, device=device))
    wanted = float(collectives.sum_over_ranks(wanted, world))
    low, high = 1 / EXTREME, EXTREME
    for _ in range(HALVINGS):
        inverse = (low * high) ** 0.5
        expected = sum((_expected(logits_BC, inverse) for logits_BC, _ in parts), torch.zeros_like(count))
        too_sure = float(collectives.sum_over_ranks(expected, world)) > wanted
        low, high = (low, inverse) if too_sure else (inverse, high)
    return round((low * high) ** -0.5, DIGITS)


def _wanted(logits_BC: Tensor, label_B: Tensor, doubt: float) -> Tensor:
    """Sums the logits that the targets pick; a scalar."""
    right_B = logits_BC.gather(1, label_B[:, None])[:, 0]
    return ((1 - doubt) * right_B + doubt * logits_BC.mean(1)).double().sum()


def _expected(logits_BC: Tensor, inverse: float) -> Tensor:
    """Sums the logits that the model expects at 1 / temperature; a scalar."""
    return ((logits_BC * inverse).softmax(1) * logits_BC).double().sum()


def reliability(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Sums confidence, correctness and count by bins of confidence; float64 [R, 3].

    Confidence that is not a number counts in the first bin, whose sum it makes not a number either.
    """
    confidence_B, guess_B = logits_BC.double().softmax(1).max(1)
    right_B = (guess_B == label_B).double()
    bin_B = (confidence_B.nan_to_num() * BIN_COUNT).long().clamp(max=BIN_COUNT - 1)
    rows_B3 = torch.stack([confidence_B, right_B, torch.ones_like(right_B)], 1)
    return rows_B3.new_zeros(BIN_COUNT, 3).index_add(0, bin_B, rows_B3)


def error(reliability_R3: Tensor) -> float:
    """Gives the expected calibration error: the gap between confidence and accuracy, weighted by bin."""
    gaps_R = (reliability_R3[:, 0] - reliability_R3[:, 1]).abs()
    return float(gaps_R.sum() / reliability_R3[:, 2].sum())


def measure(
    train: ModuleType, temperature: float, see: Callable[[Tensor, Tensor], None]
) -> Callable[[nn.Module, Any], dict[str, Tensor]]:
    """Makes a task's `measure` that sees calibrated logits, and adds the reliability that they had before.

    `see` is shown the calibrated logits and the labels too.
    """

    def measured(network: nn.Module, batch: Any) -> dict[str, Tensor]:
        logits_BC, label_B = train.scored(network, batch)
        sums = train.tally(logits_BC / temperature, label_B) | {"uncalibrated": reliability(logits_BC, label_B)}
        see(logits_BC / temperature, label_B)  # last: a batch that memory does not suffice for comes again
        return sums

    return measured
