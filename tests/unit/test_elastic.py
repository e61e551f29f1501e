"""A run whose number of ranks changes in mid-epoch: by ledger, each example counts once an epoch in what survives."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from groups import PARITY, Ending, train
from safetensors.torch import load_file
from torch import Tensor

from pipelines import ledger, tasks
from pipelines.ledger import Taken

FLAGS = {"epochs": 3, "batch_size": 54}
"""30 batches an epoch, the last one short: neither 54 nor 34 divides by 4, and 34 not by 3."""


@dataclass(frozen=True)
class History:
    """A run of 4, then 2, then 3 ranks, and what each ledger line says."""

    run_dir: Path
    endings: list[list[str]]
    taken: list[Taken]
    surviving: list[Taken]


def weights(run_dir: Path) -> dict[str, Tensor]:
    return load_file(run_dir / "artifact" / "model.safetensors")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    folder = tmp_path_factory.mktemp("elastic")
    run_dir, ledger_dir = folder / "run", folder / "ledger"
    plan = [(4, Ending("killed", 13)), (2, Ending("stopped", 41)), (3, Ending())]
    endings = [train(run_dir, ledger_dir, world, ending, **FLAGS) for world, ending in plan]
    taken = list(ledger.taken(ledger_dir, run_dir))
    return History(run_dir, endings, taken, ledger.surviving(taken, run_dir))


def test_ranks_end_as_planned(history: History) -> None:
    killed, stopped, done = history.endings
    assert killed[0] == "exit -9" and all("RuntimeError" in words for words in killed[1:])
    assert len(stopped) == 2 and all(words.startswith("Stopped: stopped after step") for words in stopped)
    assert done == ["done"] * 3


def test_each_example_counts_exactly_once_an_epoch_in_the_surviving_history(history: History) -> None:
    examples = len(tasks.find(PARITY).data.load(tasks.find(PARITY).config.Config()).train)
    assert [step.step for step in history.surviving] == list(range(90))
    assert ledger.tally(history.surviving) == {epoch: Counter(range(examples)) for epoch in range(3)}


def test_the_ledger_sees_the_steps_that_were_taken_twice(history: History) -> None:
    lost = len(history.taken) - len(history.surviving)
    assert lost > 0
    assert any(count > 1 for counts in ledger.tally(history.taken).values() for count in counts.values())


def test_the_global_batch_keeps_its_size_and_the_size_of_the_group_changes_in_mid_epoch(history: History) -> None:
    assert {len(step.examples) for step in history.surviving} == {54, 34}
    changes = [now.step for then, now in pairwise(history.surviving) if now.attempt > then.attempt]
    assert len(changes) == 2 and all(step % 30 for step in changes)


def test_the_weights_are_those_of_one_rank_but_for_rounding(history: History, tmp_path: Path) -> None:
    assert train(tmp_path / "alone", tmp_path / "ledger", 1, Ending(), **FLAGS) == ["done"]
    alone, together = weights(tmp_path / "alone"), weights(history.run_dir)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)
