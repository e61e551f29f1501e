"""What training and serving share: texts in, labels with probabilities out."""

from pathlib import Path

import pytest
import torch

from pipelines.sentiment import data
from pipelines.sentiment.config import Config
from pipelines.sentiment.model import Model, Prediction

TEXTS = ["A warm, funny film.", "好吃，环境很好。", "dull " * 300, "😀", "zzz qqq", "Très mauvais !"]


@pytest.fixture(scope="module")
def model() -> Model:
    """An untrained model of the sample, whose n-grams have weights all the same."""
    config = Config(max_characters=2000)
    torch.manual_seed(0)
    made = Model.create(config, data.load(config))
    torch.nn.init.normal_(made.network.get_parameter("ngrams"))
    return made


def probabilities(model: Model, texts: list[str]) -> list[dict[str, float]]:
    """Predicts texts that are all valid."""
    entries = model.predict(texts)
    return [dict(entry.labels) for entry in entries if isinstance(entry, Prediction)]


def refusal(model: Model, text: object) -> str:
    """Predicts one invalid input between two valid ones, and gives its message."""
    first, bad, last = model.predict(["fine", text, "fine"])
    assert isinstance(first, Prediction) and first == last
    assert isinstance(bad, ValueError)
    return str(bad)


def test_every_label_has_a_probability_and_the_best_comes_first(model: Model) -> None:
    for entry in model.predict(TEXTS):
        assert isinstance(entry, Prediction)
        scores = [score for _, score in entry.labels]
        assert sorted(label for label, _ in entry.labels) == ["negative", "positive"]
        assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1)


def test_a_prediction_does_not_depend_on_the_batch_it_is_in(model: Model) -> None:
    together = probabilities(model, TEXTS)
    alone = [probabilities(model, [text])[0] for text in TEXTS]
    assert len(together) == len(TEXTS)
    assert all(one == pytest.approx(other, abs=1e-5) for one, other in zip(together, alone, strict=True))


def test_case_width_and_spaces_of_no_importance_change_nothing(model: Model) -> None:
    plain, *others = probabilities(model, ["a warm film!", "  A  Warm\tFILM! \n", "ａ ｗａｒｍ ｆｉｌｍ！"])
    assert all(plain == pytest.approx(other) for other in others)


@pytest.mark.parametrize("text", ["", " \n", "\u3000"])
def test_an_empty_text_is_refused_alone(model: Model, text: str) -> None:
    assert "empty or blank" in refusal(model, text)


def test_a_text_over_the_limit_is_refused_with_length_and_limit(model: Model) -> None:
    assert "2001 characters" in refusal(model, "x" * 2001) and "at most 2000" in refusal(model, "x" * 2001)
    assert probabilities(model, ["x" * 2000])


def test_half_a_surrogate_pair_and_bytes_are_refused(model: Model) -> None:
    assert "surrogate" in refusal(model, "odd \ud800")
    assert "bytes" in refusal(model, b"a film")


def test_nothing_but_invalid_inputs_is_answered_too(model: Model) -> None:
    assert model.predict([]) == []
    assert [type(entry) for entry in model.predict(["", " "])] == [ValueError, ValueError]


def test_a_loaded_model_predicts_what_the_saved_one_did(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert probabilities(loaded, TEXTS) == probabilities(model, TEXTS)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_its_examples_are_valid(model: Model) -> None:
    assert len(probabilities(model, model.examples())) == 2


def test_it_starts_with_the_same_weights_for_the_same_seed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {at} here,{at % 2}\n" for at in range(20)))
    config = Config(data=str(tmp_path / "a.csv"))
    loaded = data.load(config)
    one, other = (torch.manual_seed(3) and Model.create(config, loaded).network.state_dict() for _ in range(2))
    assert all(one[name].equal(other[name]) for name in one)
