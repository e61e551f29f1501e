"""Reads a text bit by bit, as many steps as it is long: the loop, and so the graph, depends on the input.

Shapes: B texts, L bits of the longest, H numbers of the state.
"""

import torch
from torch import Tensor, nn


class Reader(nn.Module):
    """A recurrent cell in a plain Python loop."""

    def __init__(self, width: int) -> None:
        """Makes a cell whose state has `width` numbers."""
        super().__init__()
        self.bit = nn.Embedding(2, width)
        self.cell = nn.GRUCell(width, width)
        self.answer = nn.Linear(width, 2)

    def forward(self, bits_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Gives scores for even and odd, [B, 2]; a text that has ended keeps its state."""
        state_BH = self.bit.weight.new_zeros(len(bits_BL), self.cell.hidden_size)
        for position, bits_B in enumerate(bits_BL.unbind(1)):
            going_B1 = (position < lengths_B)[:, None]
            state_BH = torch.where(going_B1, self.cell(self.bit(bits_B), state_BH), state_BH)
        return self.answer(state_BH)
