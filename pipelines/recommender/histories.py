"""Which items each user has, as one flat tensor; taken by batches, thinned by counters.

Shapes: U users, N interactions, B users of a batch, L interactions of a batch, I items.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.examples import Draw


@dataclass(frozen=True)
class Histories:
    """The items of user u lie at offsets[u] to offsets[u + 1]."""

    offsets: Tensor
    """int64 [U + 1]."""
    items: Tensor
    """int64 [N], positions in the catalogue."""

    def __len__(self) -> int:
        """How many users there are."""
        return len(self.offsets) - 1

    @staticmethod
    def group(users_N: Tensor, items_N: Tensor, count: int) -> "Histories":
        """Groups pairs of user and item by user, of whom there are `count`."""
        order_N = (users_N * (int(items_N.max()) + 1 if len(items_N) else 1) + items_N).argsort()
        sizes_U = torch.bincount(users_N, minlength=count)
        return Histories(torch.cat([sizes_U.new_zeros(1), sizes_U.cumsum(0)]), items_N[order_N])

    def to(self, device: torch.device) -> "Histories":
        """Moves both tensors to a device."""
        return Histories(self.offsets.to(device), self.items.to(device))

    def sizes(self) -> Tensor:
        """Counts each user's items; int64 [U]."""
        return self.offsets.diff()

    def users(self) -> Tensor:
        """Names the user of each interaction; int64 [N]."""
        return torch.arange(len(self), device=self.items.device).repeat_interleave(self.sizes())

    def popularity(self, count: int) -> Tensor:
        """Counts the users of each of `count` items; float32 [I]."""
        return torch.bincount(self.items, minlength=count).float()

    def take(self, index_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Takes some users' interactions.

        Returns for each its row in the batch, its place within the user's history and its item; int64 [L] each.
        """
        starts_B = self.offsets[index_B]
        sizes_B = self.offsets[index_B + 1] - starts_B
        row_L = torch.arange(len(index_B), device=index_B.device).repeat_interleave(sizes_B)
        place_L = torch.arange(len(row_L), device=index_B.device) - (sizes_B.cumsum(0) - sizes_B)[row_L]
        return row_L, place_L, self.items[starts_B[row_L] + place_L]

    def dense(self, index_B: Tensor, count: int) -> Tensor:
        """Marks some users' items with 1; float32 [B, I] for `count` items."""
        row_L, _, item_L = self.take(index_B)
        return mark(row_L, item_L, len(index_B), count)

    def thinned(self, index_B: Tensor, draw: Draw, keep: float, count: int) -> Tensor:
        """Marks a random share `keep` of some users' items with 1; float32 [B, I].

        Which ones depends on the draw, the user and the item's place in the history, and on nothing else.
        """
        row_L, place_L, item_L = self.take(index_B)
        longest = int(place_L.max()) + 1 if len(place_L) else 1
        kept_L = draw.uniform(index_B, longest)[row_L, place_L] < keep
        return mark(row_L[kept_L], item_L[kept_L], len(index_B), count)


def mark(row_L: Tensor, item_L: Tensor, rows: int, count: int) -> Tensor:
    """Sets 1 at the pairs of row and item; float32 [rows, count]."""
    marked = torch.zeros(rows, count, device=item_L.device)
    marked[row_L, item_L] = 1.0
    return marked
