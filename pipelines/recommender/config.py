"""The recommender's flags; standard library only."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipelines.settings import Schedule, Settings

SPACE = {
    "lr": "loguniform(5e-4, 2e-2)",
    "dropout": "uniform(0, 0.6)",
    "item_dropout": "uniform(0, 0.5)",
    "weight_decay": "loguniform(1e-2, 10)",
    "dim": "choice(64, 128, 256)",
}
"""What `eagerly tune` searches where --space and --set say nothing else."""


@dataclass(frozen=True)
class Config(Settings):
    """How the recommender learns."""

    epochs: int = 20
    batch_size: int = 256
    lr: float = 3e-3
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adamw"
    weight_decay: float = 1.0
    dropout: float = 0.3
    schedule: Schedule = "onecycle"
    PATHS: ClassVar[tuple[str, ...]] = ("data", "ratings", "items")
    dataset: str = "sample"
    """Built-in data set: sample, a dense part of goodbooks-10k."""
    data: str = ""
    """Folder that holds both files, in MovieLens' or goodbooks' layout, instead of a built-in set."""
    ratings: str = ""
    """File of ratings (CSV with user, item and rating columns, ratings.dat or u.data; plain or .gz)."""
    items: str = ""
    """File of items (CSV with item id, title, authors, genres, movies.dat or u.item; plain or .gz)."""
    min_rating: float = 0.0
    """Lowest rating that counts as liking the item; 0 takes every rating."""
    dim: int = 256
    """Length of the item and user vectors."""
    buckets: int = 16384
    """Rows of the table that words of titles, authors and genres are hashed into."""
    item_dropout: float = 0.2
    """Share of items that a step knows by their text alone, so that new items can be ranked."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        super().__post_init__()
        if self.dataset != "sample":
            raise ValueError(
                f"--dataset is {self.dataset!r}; the recommender has 'sample', or your own --ratings and --items"
            )
        if bool(self.ratings) != bool(self.items):
            given, missing = ("--ratings", "--items") if self.ratings else ("--items", "--ratings")
            raise ValueError(f"{given} is given without {missing}; give both files")
        if self.data and self.ratings:
            raise ValueError("--data is given with --ratings and --items; give the folder or the two files")
        if not 0 <= self.item_dropout < 1:
            raise ValueError(f"--item-dropout is {self.item_dropout}; it must be at least 0 and below 1")
        for name in ("dim", "buckets"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; the least allowed is 1")
        if not self.min_rating < float("inf"):
            raise ValueError(f"--min-rating is {self.min_rating}; it must be a number")
