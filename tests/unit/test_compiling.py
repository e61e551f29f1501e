"""torch.compile says what it made of a network, and is used only where it pays, without a trace of the trial."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from torch import Tensor, nn
from training import REGRESSION

from pipelines import compiling, passes
from pipelines.place import Place
from pipelines.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch reads .grad of what has none, and hides that
PASSES = 10**9
"""So many that compiling might pay for anything."""


class Rows:
    """Examples of 4 numbers."""

    def __init__(self, lengths: Tensor | None = None) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return 100

    def to(self, device: torch.device) -> "Rows":
        return self

    def batch(self, index_B: Tensor, draw: Any) -> Tensor:
        return torch.ones(len(index_B), 4) * index_B[:, None]


class Branching(nn.Module):
    """Has batch norm, and a branch that its data decides."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, rows_B4: Tensor) -> Tensor:
        value_B3 = self.norm(self.line(rows_B4))
        if value_B3.sum() > 0:
            value_B3 = value_B3 * 2
        return value_B3


def _work(**flags: Any) -> passes.Workload:
    config = Settings(batch_size=32, **flags)
    return passes.Workload(_mean, Rows(), config, Place(), torch.enable_grad)


def _mean(network: nn.Module, rows_B4: Tensor) -> Tensor:
    return network(rows_B4).square().mean()


def test_a_branch_on_data_is_counted_as_a_graph_break_with_its_reason() -> None:
    work = _work()
    compiling.warm_up(Branching(), work, work.shares(1), backend="eager")
    found = compiling.report()
    assert found.breaks == 1
    assert found.graphs >= 2
    assert re.match(r"Data-dependent branching at test_compiling\.py:\d+: if value_B3\.sum\(\) > 0", found.reasons[0])


def test_other_sizes_recompile_once_and_are_counted() -> None:
    work = _work()
    replica, _ = compiling.warm_up(nn.Sequential(nn.Linear(4, 3)), work, work.shares(1), backend="eager")
    assert compiling.report().recompiles == 1  # 32 rows, then 4: now the number of rows is a symbol
    for count in (5, 7, 31):
        replica(torch.ones(count, 4))
    replica(torch.ones(2, 3, 4))  # another rank than any before: computed eager
    assert compiling.report().recompiles == 1


def test_measuring_both_changes_nothing_and_says_what_was_found() -> None:
    network, work, said = Branching(), _work(), list[dict[str, Any]]()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    replica = compiling.fastest(network, work, work.shares(1), PASSES, said.append, backend="eager")
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())
    (event,) = said
    assert event["used"] == (event["gain"] >= passes.MARGIN) == (replica is not None)
    assert event["breaks"] >= 1
    assert event["seconds"] > 0


def test_a_network_that_cannot_be_compiled_stays_eager_and_says_why() -> None:
    work, said = _work(), list[dict[str, Any]]()
    assert compiling.fastest(nn.Linear(4, 3), work, work.shares(1), PASSES, said.append, backend="no such") is None
    assert said[0]["why"].startswith("it failed: ")
    assert "no such" in said[0]["why"]


def test_no_compiler_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "our-compiler")
    sentence = r"--compile needs a C\+\+ compiler for the cpu, and there is none on PATH \(CXX is 'our-compiler'\)"
    with pytest.raises(ValueError, match=sentence):
        training.train(tmp_path / "run", REGRESSION, epochs=2, compile="yes")


@pytest.mark.timeout(600)
def test_a_choice_is_the_same_to_the_bit_whoever_makes_it(tmp_path: Path) -> None:
    for name, chosen in (("no", 0), ("yes", 1)):
        auto = tmp_path / f"auto-{name}"
        auto.mkdir()
        (auto / "choices.json").write_text(f'{{"compile": {chosen}}}')
        made = training.train(auto, REGRESSION, epochs=6, compile="auto")
        forced = training.train(tmp_path / name, REGRESSION, epochs=6, compile=name)
        assert made.losses == forced.losses
        assert torch.equal(made.weights["weight"], forced.weights["weight"])
        assert [event["used"] for event in made.named("compiled")] == [True] * chosen


@pytest.mark.timeout(600)
def test_a_compiled_run_is_resumed_bit_identical(tmp_path: Path) -> None:
    flags: dict[str, Any] = {"epochs": 6, "batch_size": 3, "compile": "yes"}
    whole = training.train(tmp_path / "whole", REGRESSION, **flags)
    training.stop(tmp_path / "parts", word=REGRESSION, stop_at=5, checkpoint_steps=3, **flags)
    parts = training.train(tmp_path / "parts", REGRESSION, checkpoint_steps=3, **flags)
    assert parts.named("resume")[0]["step"] >= 3
    assert parts.losses == whole.losses[parts.named("resume")[0]["step"] :]
    assert torch.equal(parts.weights["weight"], whole.weights["weight"])
