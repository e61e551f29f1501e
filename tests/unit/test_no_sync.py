"""Ranks that accumulate a gradient tell each other of it once a step, however many micro-batches it is made of."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from torch.utils._python_dispatch import TorchDispatchMode
from training import REGRESSION

from pipelines import memory, tasks
from pipelines.assembly import assemble
from pipelines.examples import Draw
from pipelines.memory import Exhausted
from pipelines.place import Place

STEPS = 3
AVERAGES = {"copies": "c10d::allreduce_", "shares": "c10d::_reduce_scatter_base_"}
"""What averages gradients: of whole copies, and of a network whose few weights go in one message of shares."""


class Collectives(TorchDispatchMode):
    """Counts what a rank tells the others, by the names of PyTorch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize(("accumulate", "pieces"), [(3, 1), (1, 2), (3, 2)])
def test_a_step_averages_its_gradient_once(
    tmp_path: Path, pair: training.Pair, kind: str, accumulate: int, pieces: int
) -> None:
    with pytest.raises(Exhausted), memory.noted(tmp_path):
        raise Exhausted(pieces)
    flags = {"accumulate": accumulate, "shard": kind == "shares"}
    for counts in pair.run(averages, tmp_path, flags):
        assert [step[AVERAGES[kind]] for step in counts] == [1] * STEPS


def test_a_rank_whose_share_of_a_micro_batch_is_empty_averages_once_with_the_others(
    tmp_path: Path, pair: training.Pair
) -> None:
    first, second = pair.run(averages, tmp_path, {"accumulate": 5})  # of one example each
    assert first == second
    assert [step[AVERAGES["copies"]] for step in first] == [1] * STEPS


def averages(rank: int, folder: Path, flags: dict[str, Any]) -> list[Counter[str]]:
    """Takes steps as one of the pair; counts the collectives of each."""
    task, place = tasks.find(REGRESSION), Place(rank, 2)
    config = task.config.Config(**flags)
    data = task.data.load(config)
    torch.manual_seed(0)
    model = task.model.Model.create(config, data)
    stepper = assemble(task, config, model, data.train, place, folder, STEPS, lambda event: None)
    counts = []
    for step in range(STEPS):
        with Collectives() as collectives:
            stepper.step(data.train, torch.arange(len(data.train)), Draw(config.seed, step), step, STEPS)
        counts.append(collectives.counts)
    return counts
