"""The users and items the recommender learns from; an example is a user.

Of each user's items a fifth, drawn by the seed, is the test split, a tenth of the rest the validation split.
Shapes: U users, I items, N interactions, B users of a batch.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipelines import examples, reference
from pipelines.examples import Draw
from pipelines.recommender import tables, text
from pipelines.recommender.config import Config
from pipelines.recommender.histories import Histories
from pipelines.recommender.model import Query
from pipelines.recommender.tables import Item
from pipelines.results import bands

SAMPLE = Path(__file__).parent / "sample"
TEST_SHARE, VALID_SHARE = 0.2, 0.1
SEEN_SHARE = 0.9
"""Share of a user's items that a training step sees; all are to be guessed, each from the others."""
ACTIVITY = (10, 30, 60, 100)
"""Items at which the slices by activity end."""
LEAST_USERS, LEAST_ITEMS, LEAST_HISTORY = 5, 20, 3
log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """What is seen of some users, and what is to be found; float32 [B, I] each, 1 marks an item."""

    seen: Tensor
    targets: Tensor
    """In training everything a user has, what is seen of it included; in evaluation what is held back."""


@dataclass
class Users:
    """One split: users with the items they are known to have, and those held back."""

    index: Tensor
    """int64 [B], the users of this split among all users."""
    histories: Histories
    targets: Histories | None
    """What is held back, or None when training looks for the histories themselves."""
    item_count: int
    lengths: Tensor | None = None

    def __len__(self) -> int:
        """How many users there are."""
        return len(self.index)

    def to(self, device: torch.device) -> "Users":
        """Moves the tensors to a device, once."""
        targets = self.targets.to(device) if self.targets else None
        return replace(self, index=self.index.to(device), histories=self.histories.to(device), targets=targets)

    def batch(self, index_B: Tensor, draw: Draw | None) -> Batch:
        """Takes the users at `index_B`; a draw shows another part of their histories in every epoch."""
        user_B = self.index[index_B]
        targets = (self.histories if self.targets is None else self.targets).dense(user_B, self.item_count)
        if draw is None:
            return Batch(self.histories.dense(user_B, self.item_count), targets)
        return Batch(self.histories.thinned(user_B, draw, SEEN_SHARE, self.item_count), targets)


@dataclass
class RecommenderData(examples.Data):
    """The splits, and what the model keeps of the data: catalogue, texts and histories."""

    catalogue: list[Item]
    user_ids: list[str]
    learned: Histories
    """The training split's interactions."""
    known: Histories
    """Those of the training and validation splits: what users are known to have when the model is tested."""
    held_back: Histories
    """Those of the test split; they count as known once the model serves."""
    bags: text.Bags


def load(config: Config) -> RecommenderData:
    """Reads the data set that the flags name and splits it by the seed.

    Ratings of one item by one user count once, if any of them reaches --min-rating. Raises ValueError for files
    that are missing or broken, and for too few users or items.
    """
    ratings_path, items_path = _paths(config)
    listed = tables.read_items(items_path)
    users, items, ratings = tables.read_ratings(ratings_path)
    known = {item.id for item in listed}
    unlisted = sorted(set(items) - known)
    if unlisted:
        log.warning("%s has no row for %d rated items; they have no text", items_path, len(unlisted))
    catalogue = listed + [Item(key) for key in unlisted]
    liked = [at for at, rating in enumerate(ratings) if rating >= config.min_rating]
    user_ids = list(dict.fromkeys(users[at] for at in liked))
    user_at = {key: at for at, key in enumerate(user_ids)}
    item_at = {item.id: at for at, item in enumerate(catalogue)}
    pairs = torch.tensor([[user_at[users[at]], item_at[items[at]]] for at in liked], dtype=torch.int64).reshape(-1, 2)
    pairs_N2 = pairs.unique(dim=0)
    _check_size(config, pairs_N2)
    parts = _split(pairs_N2, len(user_ids), config.seed)
    name = config.data or config.ratings or config.dataset
    digest = examples.digest(pairs_N2.numpy().tobytes(), repr((catalogue, user_ids)).encode())
    return _data(parts, catalogue, user_ids, text.bags(catalogue, config.buckets), name, digest)


def rows(found: list[Any], config: Config, data: RecommenderData) -> Users:
    """Makes examples of {user_id} or {item_ids} rows, for a look at them: known users, or people who have these items.

    Raises ValueError for a row that is neither, or names a user or an item that the data does not know.
    """
    users = {key: at for at, key in enumerate(data.user_ids)}
    items = {item.id: at for at, item in enumerate(data.catalogue)}
    pairs: list[tuple[int, int]] = []
    for number, row in enumerate(found):
        if not isinstance(row, dict) or not (row.get("user_id") or row.get("item_ids")):
            raise ValueError(f"row {number + 1} has neither a 'user_id' nor 'item_ids'")
        unknown = [key for key in row.get("item_ids", []) if key not in items]
        if unknown or (row.get("user_id") and row["user_id"] not in users):
            raise ValueError(
                f"row {number + 1} names {unknown[0] if unknown else row['user_id']!r}, which the data lacks"
            )
        own = [items[key] for key in row.get("item_ids", [])]
        if row.get("user_id"):
            at = users[row["user_id"]]
            own += data.learned.items[data.learned.offsets[at] : data.learned.offsets[at + 1]].tolist()
        pairs += [(number, item) for item in dict.fromkeys(own)]
    pairs_N2 = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    histories = Histories.group(pairs_N2[:, 0], pairs_N2[:, 1], len(found))
    return Users(torch.arange(len(found)), histories, None, len(data.catalogue))


def inputs(data: RecommenderData) -> list[Query]:
    """Asks for recommendations to users of the data, as a caller would."""
    return [Query(user_id=data.user_ids[at]) for at in reference.spread(len(data.user_ids))]


def test_inputs(data: RecommenderData, places: list[int]) -> list[Query]:
    """Asks for some users of the test split, by the items they are known to have: not by name, which tells all."""
    offsets, items = data.known.offsets.tolist(), data.known.items.tolist()
    users = tested(data)[torch.tensor(places)].tolist()
    return [
        Query(item_ids=[data.catalogue[item].id for item in items[offsets[user] : offsets[user + 1]]]) for user in users
    ]


def slices(data: RecommenderData) -> dict[str, list[str]]:
    """Sorts the test split's users by how many items they are known to have."""
    return {"activity": bands(data.known.sizes()[tested(data)].tolist(), ACTIVITY, "items")}


def tested(data: RecommenderData) -> Tensor:
    """Lists the users of the test split, in its order; int64 [N]."""
    return (data.held_back.sizes() > 0).nonzero().flatten()


def _paths(config: Config) -> tuple[Path, Path]:
    if config.ratings:
        return Path(config.ratings), Path(config.items)
    if config.data:
        return tables.locate(config.data)
    return SAMPLE / "ratings.csv.gz", SAMPLE / "items.csv.gz"


def _check_size(config: Config, pairs_N2: Tensor) -> None:
    users = int((torch.bincount(pairs_N2[:, 0]) >= LEAST_HISTORY).sum()) if len(pairs_N2) else 0
    items = len(pairs_N2[:, 1].unique())
    if users < LEAST_USERS or items < LEAST_ITEMS:
        raise ValueError(
            f"the data has {users} users with at least {LEAST_HISTORY} items and {items} items with --min-rating "
            f"{config.min_rating:g}; at least {LEAST_USERS} such users and {LEAST_ITEMS} items are needed"
        )


def _split(pairs_N2: Tensor, users: int, seed: int) -> tuple[Histories, Histories, Histories]:
    """Divides each user's items into training, validation and test; a user with fewer than 3 is only trained on."""
    users_N, items_N = pairs_N2[:, 0], pairs_N2[:, 1]
    whole = Histories.group(users_N, items_N, users)
    order_N = examples.permutation(seed, -1, len(users_N))
    order_N = order_N[users_N[order_N].argsort(stable=True)]  # random within each user
    place_N = torch.arange(len(users_N)) - whole.offsets[users_N[order_N]]
    sizes_U = whole.sizes()
    enough_U = sizes_U >= LEAST_HISTORY
    tests_U = (sizes_U * TEST_SHARE).round().clamp(min=1).long() * enough_U
    valids_U = ((sizes_U - tests_U) * VALID_SHARE).round().clamp(min=1).long() * enough_U
    owner_N = users_N[order_N]
    is_test_N = place_N < tests_U[owner_N]
    is_valid_N = ~is_test_N & (place_N < (tests_U + valids_U)[owner_N])
    masks = (~is_test_N & ~is_valid_N, is_valid_N, is_test_N)
    train, valid, test = (Histories.group(owner_N[mask], items_N[order_N[mask]], users) for mask in masks)
    return train, valid, test


def _data(
    parts: tuple[Histories, Histories, Histories],
    catalogue: list[Item],
    user_ids: list[str],
    bags: text.Bags,
    name: str,
    digest: str,
) -> RecommenderData:
    train, valid, test = parts
    known = _join(train, valid)
    count, held = len(catalogue), (test.sizes() > 0).nonzero().flatten()
    return RecommenderData(
        train=Users(torch.arange(len(user_ids)), train, None, count),
        valid=Users(held, train, valid, count),
        test=Users(held, known, test, count),
        digest=digest,
        name=name,
        catalogue=catalogue,
        user_ids=user_ids,
        learned=train,
        known=known,
        held_back=test,
        bags=bags,
    )


def _join(one: Histories, other: Histories) -> Histories:
    users_N = torch.cat([one.users(), other.users()])
    return Histories.group(users_N, torch.cat([one.items, other.items]), len(one))
