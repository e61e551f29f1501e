"""The examples: what the article says of its line is checked, and a graph depends on its data."""

import math
from pathlib import Path

import pytest
import torch
import training
from training import PARITY, REGRESSION

from examples.linear_regression import formula
from examples.linear_regression.config import Config
from examples.linear_regression.data import load
from examples.linear_regression.train import loss
from examples.parity.network import Reader
from pipelines import tasks


@pytest.mark.parametrize(("w", "b"), [(0.0, 0.0), (1.0, -1.0), (-3.5, 2.25), (1.4, -0.22)])
def test_autograd_s_gradient_is_the_formula_s(w: float, b: float) -> None:
    line = torch.nn.Linear(1, 1)
    with torch.no_grad():
        line.weight.fill_(w)
        line.bias.fill_(b)
    loss(line, load(Config()).train.batch(torch.arange(5), None)).backward()
    assert line.weight.grad is not None and line.bias.grad is not None
    autograd = (line.weight.grad.item(), line.bias.grad.item())
    assert autograd == pytest.approx(formula.gradient(w, b), rel=1e-5, abs=1e-6)


def test_the_loop_takes_the_formula_s_steps(tmp_path: Path) -> None:
    before = training.train(tmp_path / "before", REGRESSION, epochs=1, lr=0.0)
    after = training.train(tmp_path / "after", REGRESSION, epochs=100)
    w, b = _line(before)
    for _ in range(100):
        dw, db = formula.gradient(w, b)
        w, b = w - 0.01 * dw, b - 0.01 * db
    assert _line(after) == pytest.approx((w, b), abs=1e-5)


def test_the_gradient_is_zero_at_least_squares() -> None:
    assert formula.least_squares() == pytest.approx((1.4, -0.22))
    assert formula.gradient(*formula.least_squares()) == pytest.approx((0, 0), abs=1e-12)


def test_the_article_s_settings_have_not_converged(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, REGRESSION)
    assert len(outcome.losses) == 1000
    assert 0.5 < _distance(outcome) < 2


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory) -> training.Outcome:
    return training.train(tmp_path_factory.mktemp("converged"), REGRESSION, lr=0.5)


def test_a_larger_rate_reaches_least_squares(converged: training.Outcome) -> None:
    assert _distance(converged) < 1e-3


def test_a_line_predicts_and_refuses_what_is_no_number(converged: training.Outcome) -> None:
    model = tasks.find(REGRESSION).model.Model.load(converged.folder / "artifact")
    good, word, infinite = model.predict([0.5, "x", math.inf])
    assert good == pytest.approx(0.48, abs=1e-3)
    assert str(word) == "x is 'x'; it must be a finite number"
    assert isinstance(infinite, ValueError)
    assert len(model.predict(model.examples())) == 2


def test_longer_texts_build_larger_graphs() -> None:
    sizes = {length: _node_count(length) for length in (1, 2, 5, 20)}
    step = sizes[2] - sizes[1]
    assert step > 3
    assert {length: size - sizes[1] for length, size in sizes.items()} == {1: 0, 2: step, 5: 4 * step, 20: 19 * step}


def test_texts_longer_than_any_in_training_are_answered(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, PARITY)
    assert outcome.metrics["accuracy"] == 1.0
    model = tasks.find(PARITY).model.Model.load(tmp_path / "artifact")
    assert model.predict(["1", "11", "10" * 50, "1" + "10" * 50]) == ["odd", "even", "even", "odd"]
    assert model.predict(model.examples()) == ["odd", "odd"]
    assert [str(answer) for answer in model.predict(["", "012", 3])] == [
        f"the text is {text!r}; it must be of 0s and 1s, at least one" for text in ("", "012", 3)
    ]


def test_a_text_s_answer_does_not_depend_on_what_shares_its_batch() -> None:
    torch.manual_seed(0)
    network = Reader(8)
    alone = network(torch.tensor([[1, 0, 1]]), torch.tensor([3]))
    padded = network(torch.tensor([[1, 0, 1, 0, 0], [1, 1, 1, 1, 1]]), torch.tensor([3, 5]))
    assert torch.allclose(alone[0], padded[0], atol=1e-6)


@pytest.mark.parametrize("flags", [{"longest": 0}, {"width": 0}])
def test_parity_s_own_flags_are_checked(flags: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"--{next(iter(flags))} is 0; the least allowed is 1"):
        tasks.find(PARITY).config.Config(**flags)


def _line(outcome: training.Outcome) -> tuple[float, float]:
    return float(outcome.weights["weight"]), float(outcome.weights["bias"])


def _distance(outcome: training.Outcome) -> float:
    return math.dist(_line(outcome), formula.least_squares())


def _node_count(length: int) -> int:
    scores = Reader(4)(torch.ones(1, length, dtype=torch.int64), torch.tensor([length]))
    seen, waiting = set(), [scores.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return len(seen)
