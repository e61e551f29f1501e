"""Flags of the parity example."""

from dataclasses import dataclass

from pipelines.settings import Settings


@dataclass(frozen=True)
class Config(Settings):
    """How the parity of a text of 0s and 1s is learned."""

    longest: int = 8
    """Bits of the longest text learned from; the tests are on texts up to three times as long."""
    width: int = 16
    """Numbers in the state that the network carries from bit to bit."""
    epochs: int = 6
    """Passes over the training split."""
    lr: float = 0.01
    """Learning rate."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        super().__post_init__()
        for name in ("longest", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; the least allowed is 1")
