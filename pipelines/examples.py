"""What the loop sees of data: splits that are indexed by batches, and randomness drawn from counters.

Shapes: B examples of a batch, N examples of a split, C draws per example.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """Random numbers that depend on (seed, epoch, example) and on nothing else.

    The order in which examples are visited, the number of workers and a restart change none of them.
    """

    seed: int
    epoch: int

    def uniform(self, index_B: Tensor, count: int) -> Tensor:
        """Draws `count` numbers for each example.

        Returns float32 [B, count] in [0, 1), on the device of `index_B`.
        """
        stream_C = torch.arange(count, device=index_B.device, dtype=torch.int64)
        key = _mix_int(_mix_int(self.seed) ^ self.epoch)
        bits_BC = _mix(_mix(index_B.to(torch.int64) + key)[:, None] + stream_C * -7046029254386353131)
        return (bits_BC & 0xFFFFFF).to(torch.float32) / 0x1000000  # [B, C]


SPLITS = ("train", "valid", "test")
T = TypeVar("T")


class OnDemand(Sequence[T]):
    """Things that are each taken when they are asked for, so that they need not be in memory together."""

    def __init__(self, count: int, take: Callable[[int], T]) -> None:
        """Takes none yet; `take` gives the one at a place, from 0."""
        self._count, self._take = count, take

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def __getitem__(self, at: Any) -> Any:
        """Takes one, or those of a slice."""
        places = range(self._count)[at]
        return self._take(places) if isinstance(places, int) else [self._take(place) for place in places]


class Split(Protocol):
    """Examples of one split, in memory or mapped into it, from which the loop takes batches by index."""

    @property
    def lengths(self) -> Tensor | None:
        """Tokens per example [N], so that a batch holds texts of like length; None where all are alike."""
        ...

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def to(self, device: torch.device) -> "Split":
        """Moves the tensors to a device, once; of what outgrows memory, batches as they are taken."""
        ...

    def batch(self, index_B: Tensor, draw: Draw | None) -> Any:
        """Takes the examples at `index_B`, augmented by `draw` when training, as they are when it is None."""
        ...


@dataclass
class Data:
    """The three splits of a data set, fixed by the seed."""

    train: Split
    valid: Split
    test: Split
    digest: str
    """SHA-256 of the content, so that a run names what it learned from."""
    name: str
    """The data set's name or path."""


def permutation(seed: int, epoch: int, count: int) -> Tensor:
    """Orders `count` examples by (seed, epoch) alone; int64 [count], on the CPU."""
    generator = torch.Generator().manual_seed(_mix_int(_mix_int(seed) ^ epoch) & 0x7FFFFFFFFFFFFFFF)
    return torch.randperm(count, generator=generator)


class Digest:
    """SHA-256 of parts, each with its length, so that no two lists of parts share a digest by accident."""

    def __init__(self) -> None:
        """Hashes nothing yet."""
        self._sha = hashlib.sha256()

    def begin(self, size: int) -> None:
        """Begins a part of so many bytes, which are to follow."""
        self._sha.update(size.to_bytes(8, "little"))

    def go_on(self, piece: bytes | memoryview) -> None:
        """Takes the next bytes of the part that was begun."""
        self._sha.update(piece)

    def add(self, part: bytes) -> None:
        """Takes a whole part."""
        self.begin(len(part))
        self.go_on(part)

    def hex(self) -> str:
        """Gives the digest of all parts so far, in hexadecimal."""
        return self._sha.hexdigest()


def digest(*parts: bytes) -> str:
    """Hashes parts that are whole in memory; SHA-256 in hexadecimal."""
    found = Digest()
    for part in parts:
        found.add(part)
    return found.hex()


def fingerprints(contents: Iterable[bytes]) -> Tensor:
    """Gives each example's content a number that hardly another content has; int64."""
    short = (hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return torch.tensor([int.from_bytes(number, "little", signed=True) for number in short], dtype=torch.int64)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seeds the generator that dropout draws from, for one micro-step of one rank."""
    return _mix_int(_mix_int(_mix_int(seed) ^ step) ^ rank) & 0x7FFFFFFFFFFFFFFF


def _mix_int(value: int) -> int:
    """Scrambles 64 bits as splitmix64 does (Steele, Lea and Flood, 2014); a signed 64-bit integer."""
    value = (value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    value ^= value >> 31
    return value - (1 << 64) if value >> 63 else value


def _mix(value: Tensor) -> Tensor:
    """The same scrambling of int64 tensors, which wrap around as unsigned ones would."""
    value = value + -7046029254386353131
    value = (value ^ _shift(value, 30)) * -4658895280553007687
    value = (value ^ _shift(value, 27)) * -7723592293110705685
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    return (value >> bits) & ((1 << (64 - bits)) - 1)
