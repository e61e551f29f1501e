"""Which module is named when a step is not finite."""

import math

import torch
from torch import Tensor, nn

from pipelines.postmortem import Watch


class Masked(nn.Module):
    def forward(self, values_BN: Tensor) -> Tensor:
        return values_BN.masked_fill(torch.arange(values_BN.shape[1]) < 1, -math.inf)


class Broken(nn.Module):
    def forward(self, values_BN: Tensor) -> Tensor:
        return values_BN * math.nan


def test_a_mask_of_minus_infinity_is_not_blamed_for_what_breaks_after_it() -> None:
    network = nn.Sequential(Masked(), nn.Softmax(1), Broken())
    watch = Watch(network)
    with watch.watching():
        network(torch.ones(2, 4))
    assert (watch.masked, watch.found) == (("0", "output"), ("2", "output"))
