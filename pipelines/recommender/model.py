"""What training and serving share: the catalogue, the network, the histories of known users.

Shapes: B queries, U users, I items, D length of a vector, K most items asked for, L items of all queries.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.recommender import tensors
from pipelines.recommender.config import Config
from pipelines.recommender.histories import Histories, mark
from pipelines.recommender.network import Network
from pipelines.recommender.text import Bags
from pipelines.schema import Arrays, Schema

if TYPE_CHECKING:
    from pipelines.recommender.data import RecommenderData

Problem = ValueError | LookupError


@dataclass(frozen=True)
class Query:
    """Whom to recommend to: a known user, items that somebody has, or both; and how many items."""

    user_id: str = ""
    item_ids: tuple[str, ...] | list[str] = ()
    k: int = 10


@dataclass(frozen=True)
class Recommendation:
    """The best items that the user does not have, best first; fewer than asked for when no more are left."""

    items: list[tuple[str, float, str]]
    """Item id, score, title."""


class NotFoundError(LookupError):
    """A user or an item that the model does not know."""

    item_index: int | None = None
    """Where the item stands in item_ids; None for a user."""


@dataclass(frozen=True)
class Catalogue:
    """The items and users a model knows, by position."""

    item_ids: list[str]
    titles: list[str]
    user_ids: list[str]
    histories: Histories
    """Everything that each user has."""


class Model:
    """Recommends items from what users have and from the items' text."""

    def __init__(self, network: Network, catalogue: Catalogue, settings: dict[str, Any]) -> None:
        """Puts a model together; `settings` are the network's sizes."""
        self.network, self.catalogue, self.settings = network, catalogue, settings
        self._item_at = {key: at for at, key in enumerate(catalogue.item_ids)}
        self._user_at = {key: at for at, key in enumerate(catalogue.user_ids)}
        self._vectors: Tensor | None = None

    @classmethod
    def create(cls, config: Config, data: "RecommenderData") -> "Model":
        """Makes an untrained model of the data's items and users."""
        settings = {name: getattr(config, name) for name in ("buckets", "dim", "dropout", "item_dropout")}
        network = Network(data.bags, **settings)
        network.start(data.learned.popularity(len(data.catalogue)))
        ids, titles = [item.id for item in data.catalogue], [item.title for item in data.catalogue]
        users_N = torch.cat([data.known.users(), data.held_back.users()])
        histories = Histories.group(users_N, torch.cat([data.known.items, data.held_back.items]), len(data.user_ids))
        return cls(network, Catalogue(ids, titles, data.user_ids, histories), settings)

    def schema(self) -> Schema:
        """Describes users and items in, items and their scores out."""
        return tensors.schema(len(self.catalogue.item_ids))

    def from_tensors(self, arrays: Arrays) -> list[Query | tensors.UnreadableError]:
        """Reads queries, with the error in place of one that names nobody, or whose item ids are no list."""
        return [Query(*one) if isinstance(one, tuple) else one for one in tensors.read(arrays)]

    def to_tensors(self, predictions: list[Recommendation]) -> Arrays:
        """Gives items and scores, best first, filled up to the longest recommendation of the batch."""
        return tensors.write([prediction.items for prediction in predictions])

    def blame(self, query: Query | tensors.UnreadableError, error: Exception) -> str:
        """Says which tensor of a query an error is about."""
        if isinstance(query, tensors.UnreadableError):
            return query.tensor
        if not isinstance(error, LookupError):
            return "k"
        return "item_ids" if query.item_ids else "user_id"

    def to(self, device: torch.device | str) -> "Model":
        """Moves network and histories to a device."""
        self.network.to(device)
        histories = self.catalogue.histories.to(torch.device(device))
        self.catalogue = Catalogue(**{**vars(self.catalogue), "histories": histories})
        return self

    def examples(self) -> list[Query]:
        """Gives a known user, and a stranger who names what another user has."""
        first, second, _ = self.catalogue.histories.offsets[:3].tolist()
        names = [self.catalogue.item_ids[at] for at in self.catalogue.histories.items[first : min(second, first + 3)]]
        return [Query(user_id=self.catalogue.user_ids[0]), Query(item_ids=names)]

    def predict(self, inputs: list[Query]) -> list[Recommendation | Problem]:
        """Recommends to each query; a bad query gets the error that says why.

        NotFoundError stands for an unknown user without item_ids and for an unknown item, a ValueError for a bad k.
        Everything a known user has counts, and the query's items besides; none of them is recommended.
        """
        checked = [self._check(query) for query in inputs]
        good = [at for at, problem in enumerate(checked) if problem is None]
        if good:
            found = self._recommend([inputs[at] for at in good])
            for at, recommendation in zip(good, found, strict=True):
                checked[at] = recommendation
        return checked  # type: ignore[return-value]

    def features(self, inputs: list[Query], predictions: list[Recommendation]) -> dict[str, list[float]]:
        """Tells drift how many items each answer stands on, and how well the best of it suits."""
        offsets = self.catalogue.histories.offsets
        known = {at: self._user_at[one.user_id] for at, one in enumerate(inputs) if one.user_id in self._user_at}
        users_L = torch.tensor(list(known.values()), dtype=torch.int64, device=offsets.device)
        sizes = dict(zip(known, (offsets[users_L + 1] - offsets[users_L]).tolist(), strict=True))
        items = [float(sizes.get(at, 0) + len(set(one.item_ids))) for at, one in enumerate(inputs)]
        best = [one.items[0][1] if one.items else 0.0 for one in predictions]
        return {"items": items, "top_score": best}

    def _check(self, query: Query) -> Any:
        """Says what is wrong with a query, or None."""
        if not 1 <= query.k <= len(self.catalogue.item_ids):
            return ValueError(f"k is {query.k}; it must be 1 to {len(self.catalogue.item_ids)}, the number of items")
        for index, key in enumerate(query.item_ids):
            if key not in self._item_at:
                problem = NotFoundError(f"unknown item {key!r} in item_ids; name items of the catalogue")
                problem.item_index = index
                return problem
        if query.user_id not in self._user_at and not query.item_ids:
            return NotFoundError(f"unknown user {query.user_id!r} and no item_ids; name items that this user likes")
        return None

    @torch.inference_mode()
    def _recommend(self, queries: list[Query]) -> list[Recommendation]:
        seen_BI = self._seen(queries)
        vectors_ID = self._item_vectors()
        users_BD = self.network.users(seen_BI @ vectors_ID, seen_BI.sum(1, keepdim=True))
        scores_BI = (users_BD @ vectors_ID.T + self.network.item_bias).masked_fill_(seen_BI > 0, float("-inf"))
        top = scores_BI.topk(max(query.k for query in queries), dim=1)
        left_B = (seen_BI == 0).sum(1).tolist()
        ids, titles = self.catalogue.item_ids, self.catalogue.titles
        scores_BK, items_BK = top.values.cpu().numpy(), top.indices.cpu().numpy()
        found = []
        for query, left, scores_K, items_K in zip(queries, left_B, scores_BK, items_BK, strict=True):
            count = min(query.k, left)  # a batch mate may want far more
            best = zip(items_K[:count].tolist(), scores_K[:count].tolist(), strict=True)
            found.append(Recommendation([(ids[item], score, titles[item]) for item, score in best]))
        return found

    def _seen(self, queries: list[Query]) -> Tensor:
        """Marks what each query's user has, from the history and from the query; float32 [B, I]."""
        histories, count = self.catalogue.histories, len(self.catalogue.item_ids)
        named = [(row, self._item_at[key]) for row, query in enumerate(queries) for key in query.item_ids]
        row_L2 = torch.tensor(named, dtype=torch.int64, device=histories.items.device).reshape(-1, 2)
        seen_BI = mark(row_L2[:, 0], row_L2[:, 1], len(queries), count)
        known = [
            (row, self._user_at[query.user_id]) for row, query in enumerate(queries) if query.user_id in self._user_at
        ]
        if known:
            row_L, user_L = torch.tensor(known, device=histories.items.device).T
            seen_BI[row_L] = seen_BI[row_L].maximum(histories.dense(user_L, count))
        return seen_BI

    def _item_vectors(self) -> Tensor:
        """Gives the items' vectors, worked out once for a loaded model."""
        if self._vectors is not None:
            return self._vectors
        self.network.eval()
        return self.network.items()

    def save(self, folder: Path) -> None:
        """Writes the weights, the settings, the catalogue and the users' histories."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        histories = self.catalogue.histories.to(torch.device("cpu"))
        save_file(vars(histories), folder / "histories.safetensors")
        names = {name: getattr(self.catalogue, name) for name in ("item_ids", "titles", "user_ids")}
        (folder / "catalogue.json").write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(self.settings), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Model":
        """Reads what `save` wrote, ready to predict."""
        weights = load_file(folder / "model.safetensors", device=device)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = {name: settings[name] for name in ("buckets", "dim", "dropout", "item_dropout")}
        bags = Bags(weights["offsets"], weights["features"], weights["weights"])
        network = Network(bags, **settings)
        network.load_state_dict(weights, assign=True)
        histories = Histories(**load_file(folder / "histories.safetensors", device=device))
        names = json.loads((folder / "catalogue.json").read_text(encoding="utf-8"))
        model = cls(network.eval(), Catalogue(**names, histories=histories), settings)
        with torch.inference_mode():
            model._vectors = model.network.items()
        return model
