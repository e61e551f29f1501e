"""What a recommender trained on the embedded sample must do."""

import pytest
import torch

from pipelines import loop, tasks
from pipelines.place import Place
from pipelines.recommender.config import Config
from pipelines.recommender.model import Model, Query, Recommendation

HARRY_POTTER = ["2", "18", "23", "24", "25", "27"]
"""All but the fifth of the seven books."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, dict[str, float]]:
    """A smaller model than the default, so that training takes seconds; with its test metrics."""
    folder = tmp_path_factory.mktemp("recommender") / "run"
    config = Config(dim=128, epochs=6, batch_size=128)
    metrics = loop.run(tasks.find("recommender"), config, folder, Place(threads=1))
    return Model.load(folder / "artifact"), metrics


def titles(model: Model, query: Query) -> list[str]:
    """Lists the titles that a query is answered with."""
    (answer,) = model.predict([query])
    assert isinstance(answer, Recommendation)
    return [title for _, _, title in answer.items]


def test_the_model_ranks_far_better_than_popularity_and_near_ease(
    trained: tuple[Model, dict[str, float]],
) -> None:
    _, metrics = trained
    assert metrics["ndcg_at_10"] > 1.5 * metrics["popularity_ndcg_at_10"]
    assert metrics["ndcg_at_10"] > 0.76 * metrics["ease_ndcg_at_10"]


def test_a_reader_of_a_series_gets_the_rest_of_it(trained: tuple[Model, dict[str, float]]) -> None:
    model, _ = trained
    best, *_ = titles(model, Query(item_ids=HARRY_POTTER, k=10))
    assert best == "Harry Potter and the Order of the Phoenix (Harry Potter, #5)"


def test_a_volume_that_nobody_rated_is_recommended_to_readers_of_its_series(
    trained: tuple[Model, dict[str, float]],
) -> None:
    model, _ = trained
    rated_I = torch.bincount(model.catalogue.histories.items, minlength=len(model.catalogue.item_ids)) > 0
    series = {
        key: (title, rated)
        for key, title, rated in zip(model.catalogue.item_ids, model.catalogue.titles, rated_I.tolist(), strict=True)
        if "Wheel of Time, #" in title
    }
    read = [key for key, (_, rated) in series.items() if rated]
    new = [title for title, rated in series.values() if not rated]
    assert set(new) <= set(titles(model, Query(item_ids=read, k=60)))


def test_a_reader_of_two_books_by_an_author_gets_the_others(trained: tuple[Model, dict[str, float]]) -> None:
    model, _ = trained
    at = {title: key for key, title in zip(model.catalogue.item_ids, model.catalogue.titles, strict=True)}
    austen = [at["Pride and Prejudice"], at["Sense and Sensibility"]]
    assert {"Emma", "Persuasion"} <= set(titles(model, Query(item_ids=austen, k=10)))
