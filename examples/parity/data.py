"""Random texts of 0s and 1s, and whether the 1s are odd in number.

Shapes: N texts, B of a batch, L bits of the longest among them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.examples import Data, Draw, digest

from .config import Config

TRAIN_COUNT, TEST_COUNT = 1600, 200


@dataclass
class Bits:
    """Texts, whole in memory, filled up with 0s to one length."""

    bits: Tensor
    """[N, L]"""
    lengths: Tensor

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.bits)

    def to(self, device: torch.device) -> "Bits":
        """Moves the texts to a device."""
        return Bits(self.bits.to(device), self.lengths.to(device))

    def batch(self, index_B: Tensor, draw: Draw | None) -> tuple[Tensor, Tensor, Tensor]:
        """Takes texts, cut to the longest of them: bits [B, L], lengths [B], and 1 where odd [B]."""
        lengths_B = self.lengths[index_B]
        bits_BL = self.bits[index_B, : int(lengths_B.max())]
        return bits_BL, lengths_B, bits_BL.sum(1) % 2


def load(config: Config) -> Data:
    """Draws the splits by the seed; validation and test texts are longer than any in training."""
    generator = torch.Generator().manual_seed(config.seed)
    train = _draw(TRAIN_COUNT, 1, config.longest, generator)
    valid, test = (_draw(TEST_COUNT, config.longest + 1, 3 * config.longest, generator) for _ in range(2))
    content = [part.numpy().tobytes() for split in (train, valid, test) for part in (split.bits, split.lengths)]
    return Data(train, valid, test, digest(*content), f"texts of up to {config.longest} bits")


def rows(found: list, config: Config, data: Data) -> Bits:
    """Makes examples of texts such as "0110", for `eagerly inspect --batch`; ValueError for a row that is none."""
    for number, text in enumerate(found, 1):
        if not isinstance(text, str) or not text or set(text) - {"0", "1"}:
            raise ValueError(f"row {number} is {text!r}; it must be a text of 0s and 1s")
    longest = max(map(len, found))
    bits = [[int(bit) for bit in text.ljust(longest, "0")] for text in found]
    return Bits(torch.tensor(bits), torch.tensor([len(text) for text in found]))


def _draw(count: int, shortest: int, longest: int, generator: torch.Generator) -> Bits:
    lengths_N = torch.randint(shortest, longest + 1, (count,), generator=generator)
    bits_NL = torch.randint(2, (count, longest), generator=generator)
    return Bits(bits_NL * (torch.arange(longest) < lengths_N[:, None]), lengths_N)
