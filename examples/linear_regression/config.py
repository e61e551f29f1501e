"""Flags of the article's linear regression."""

from dataclasses import dataclass
from typing import Literal

from pipelines.settings import Settings


@dataclass(frozen=True)
class Config(Settings):
    """The article's settings: SGD at 0.01, 1,000 steps over all five points at once."""

    epochs: int = 1000
    batch_size: int = 5
    lr: float = 0.01
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
