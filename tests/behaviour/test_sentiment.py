"""What a sentiment model trained on the embedded sample must do."""

import pytest

from pipelines import loop, tasks
from pipelines.place import Place
from pipelines.sentiment.config import Config
from pipelines.sentiment.model import Model, Prediction


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, dict[str, float]]:
    """The model of the default settings, with its test metrics."""
    folder = tmp_path_factory.mktemp("sentiment") / "run"
    metrics = loop.run(tasks.find("sentiment"), Config(), folder, Place(threads=1))
    return Model.load(folder / "artifact"), metrics


def positive(model: Model, text: str) -> float:
    """Gives the probability that a text is positive."""
    (entry,) = model.predict([text])
    assert isinstance(entry, Prediction)
    return dict(entry.labels)["positive"]


def test_it_is_right_about_most_of_the_test_split(trained: tuple[Model, dict[str, float]]) -> None:
    _, metrics = trained
    assert metrics["accuracy"] >= 0.70
    assert metrics["macro_f1"] >= 0.70
    assert metrics["ece"] <= 0.12


@pytest.mark.parametrize(
    "text",
    [
        "A warm, funny and beautifully acted film.",
        "one of the best films of the year, moving and powerful",
        "an engaging, intelligent and touching portrait",
        "很好吃，环境很好，服务员很热情，推荐！",
        "性价比高，很满意，超级好吃",
    ],
)
def test_praise_is_positive(trained: tuple[Model, dict[str, float]], text: str) -> None:
    assert positive(trained[0], text) > 0.5


@pytest.mark.parametrize(
    "text",
    [
        "a dull, lifeless mess",
        "Too long, badly written and boring.",
        "the jokes fall flat and the plot is stupid and predictable",
        "太难吃了，服务态度极差，再也不会来了。",
        "很失望，不会再来",
    ],
)
def test_blame_is_negative(trained: tuple[Model, dict[str, float]], text: str) -> None:
    assert positive(trained[0], text) < 0.5


@pytest.mark.parametrize(("better", "worse"), [("good", "bad"), ("wonderful", "boring"), ("fresh", "stale")])
def test_a_kinder_word_moves_the_answer_up(trained: tuple[Model, dict[str, float]], better: str, worse: str) -> None:
    frame = "the story is {} and the acting is {}"
    assert positive(trained[0], frame.format(better, better)) > positive(trained[0], frame.format(worse, worse))


def test_case_spaces_and_names_do_not_turn_the_answer(trained: tuple[Model, dict[str, float]]) -> None:
    model, _ = trained
    answer = positive(model, "a dull, lifeless mess by Smith")
    assert positive(model, "  A DULL,  lifeless mess by smith\n") == pytest.approx(answer, abs=1e-5)
    assert positive(model, "a dull, lifeless mess by Jones") < 0.5 and answer < 0.5
