"""Answers to queries, good and bad; what saving keeps; new users and new items."""

from pathlib import Path

import pytest
import torch

from pipelines import artifact, examples
from pipelines.examples import Data, Draw
from pipelines.recommender import data, train
from pipelines.recommender.config import Config
from pipelines.recommender.model import Model, NotFoundError, Query, Recommendation

GENRES = ("space", "romance", "horror")
PER_GENRE, USERS = 12, 60
NEW = ("new-space", "new-romance", "new-horror")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Writes users who each read one genre only, and one new book of each genre that nobody has."""
    folder = tmp_path_factory.mktemp("planted")
    books = [f"{genre}-{at},Tome {at},Author of {genre},{genre}" for genre in GENRES for at in range(PER_GENRE)]
    books += [f"{key},Fresh,Author of {key[4:]},{key[4:]}" for key in NEW]
    (folder / "items.csv").write_text("\n".join(["item_id,title,authors,genres", *books]) + "\n")
    draw_UI = Draw(0, 0).uniform(torch.arange(USERS), PER_GENRE)
    rows = [f"user-{user},{GENRES[user % 3]}-{item},5" for user, item in (draw_UI < 0.7).nonzero().tolist()]
    (folder / "ratings.csv").write_text("\n".join(["user_id,item_id,rating", *rows]) + "\n")
    return Config(data=str(folder), dim=16, buckets=512, item_dropout=0.3)


@pytest.fixture(scope="module")
def found(planted: Config) -> data.RecommenderData:
    """Loads the planted data."""
    return data.load(planted)


@pytest.fixture(scope="module")
def model(planted: Config, found: data.RecommenderData) -> Model:
    """Trains on the planted data for a moment."""
    torch.manual_seed(0)
    model = Model.create(planted, found)
    optimizer = torch.optim.Adam([weight for weight in model.network.parameters() if weight.requires_grad], lr=0.02)
    for epoch in range(20):
        for index_B in examples.permutation(0, epoch, len(found.train)).split(20):
            optimizer.zero_grad()
            train.loss(model.network, found.train.batch(index_B, Draw(0, epoch))).backward()
            optimizer.step()
    return model


def ids(answer: Recommendation | ValueError | LookupError) -> list[str]:
    """Lists the ids of an answer that is no error."""
    assert isinstance(answer, Recommendation)
    return [key for key, _, _ in answer.items]


def genre(key: str) -> str:
    """Reads the genre out of a planted id."""
    return key.removeprefix("new-").split("-")[0]


def test_data_is_what_the_loop_expects(found: data.RecommenderData) -> None:
    assert isinstance(found, Data)
    assert found.train.lengths is None


def test_a_known_user_gets_unseen_items_of_their_genre_with_titles(model: Model) -> None:
    (answer,) = model.predict([Query("user-1", k=3)])
    assert isinstance(answer, Recommendation)
    assert {genre(key) for key in ids(answer)} == {"romance"}
    assert all(title.startswith(("Tome", "Fresh")) for _, _, title in answer.items)
    scores = [score for _, score, _ in answer.items]
    assert scores == sorted(scores, reverse=True)


def test_items_that_a_user_has_are_never_returned(model: Model, found: data.RecommenderData) -> None:
    everything = model.predict([Query(user, k=len(found.catalogue)) for user in found.user_ids])
    owned_UI = found.known.dense(torch.arange(USERS), len(found.catalogue))
    owned_UI += found.held_back.dense(torch.arange(USERS), len(found.catalogue))
    for owned_I, answer in zip(owned_UI, everything, strict=True):
        has = {item.id for item, own in zip(found.catalogue, owned_I.tolist(), strict=True) if own}
        assert set(ids(answer)) == {item.id for item in found.catalogue} - has


def test_fewer_items_than_k_come_back_when_no_more_are_left(model: Model) -> None:
    names = list(model.catalogue.item_ids)
    (answer,) = model.predict([Query(item_ids=names[:-2], k=10)])
    assert sorted(ids(answer)) == sorted(names[-2:])


def test_a_new_user_is_served_from_a_few_items(model: Model) -> None:
    (answer,) = model.predict([Query("a stranger", ["horror-0", "horror-1"], 5)])
    assert {genre(key) for key in ids(answer)} == {"horror"}
    assert not {"horror-0", "horror-1"} & set(ids(answer))


def test_items_of_the_query_add_to_what_a_known_user_has(model: Model) -> None:
    alone, more = model.predict([Query("user-0", k=2), Query("user-0", ["horror-3"], k=20)])
    assert "horror-3" not in ids(more)
    assert {genre(key) for key in ids(alone)} == {"space"}
    assert "horror" in {genre(key) for key in ids(more)}


def test_a_new_item_without_behaviour_is_recommended_by_its_text(model: Model) -> None:
    answers = model.predict([Query(item_ids=[f"{name}-0", f"{name}-1"], k=PER_GENRE - 2) for name in GENRES])
    for name, answer in zip(GENRES, answers, strict=True):
        assert {genre(key) for key in ids(answer)[: PER_GENRE - 4]} == {name}
        assert f"new-{name}" in ids(answer)


def test_a_new_item_without_behaviour_stands_for_its_text_in_a_history(model: Model) -> None:
    (answer,) = model.predict([Query(item_ids=["new-space"], k=5)])
    assert {genre(key) for key in ids(answer)} == {"space"}


def test_answers_do_not_depend_on_batch_mates(model: Model) -> None:
    queries = [Query("user-4", k=3), Query(item_ids=["space-1"], k=9), Query("user-5", ["space-2"], k=1)]
    together = model.predict(queries)
    for query, answer in zip(queries, together, strict=True):
        (alone,) = model.predict([query])
        assert ids(alone) == ids(answer)


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        (Query("nobody"), NotFoundError, "unknown user 'nobody' and no item_ids; name items that this user likes"),
        (Query(), NotFoundError, "unknown user '' and no item_ids; name items that this user likes"),
        (Query("user-0", ["lost"]), NotFoundError, "unknown item 'lost' in item_ids; name items of the catalogue"),
        (Query("user-0", k=0), ValueError, "k is 0; it must be 1 to 39, the number of items"),
        (Query("user-0", k=40), ValueError, "k is 40; it must be 1 to 39, the number of items"),
    ],
)
def test_a_bad_query_gets_its_own_error(model: Model, query: Query, kind: type[Exception], message: str) -> None:
    bad, good = model.predict([query, Query("user-0")])
    assert type(bad) is kind
    assert str(bad) == message
    assert isinstance(good, Recommendation)


def test_no_queries_get_no_answers(model: Model) -> None:
    assert model.predict([]) == []


def test_the_models_own_examples_are_answered(model: Model) -> None:
    assert all(isinstance(answer, Recommendation) for answer in model.predict(model.examples()))


def test_a_saved_model_answers_as_before(model: Model, tmp_path: Path) -> None:
    artifact.write(tmp_path / "artifact", "recommender", model.save)
    artifact.verify(tmp_path / "artifact")
    loaded = Model.load(tmp_path / "artifact")
    queries = [*model.examples(), Query("user-7", ["space-0"], 4)]
    assert loaded.predict(queries) == model.predict(queries)
    assert loaded.examples() == model.examples()
