"""Flags of the article's linear regression."""

from dataclasses import dataclass
from typing import Literal

from pipelines.settings import Settings


@dataclass(frozen=True)
class Config(Settings):
    """The article's settings, with which the line has not converged; `--lr 0.5` reaches least squares."""

    epochs: int = 1000
    """Passes over the five points; each is one step."""
    batch_size: int = 5
    """Points per step: all of them."""
    lr: float = 0.01
    """Learning rate; above 0.668 the steps grow without end."""
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    """Rule that turns gradients into steps."""
