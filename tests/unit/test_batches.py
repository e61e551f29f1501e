"""Which examples make up a step is a function of counters, and every example counts once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from pipelines import batches
from pipelines.examples import permutation


@given(some.integers(1, 300), some.integers(1, 64), some.integers(0, 5), some.booleans())
@settings(max_examples=50, deadline=None)
def test_each_example_is_in_exactly_one_batch_of_an_epoch(count: int, size: int, epoch: int, ragged: bool) -> None:
    lengths = torch.arange(count) % 7 + 1 if ragged else None
    plan = batches.training(3, epoch, count, size, lengths)
    assert sorted(torch.cat(plan).tolist()) == list(range(count))
    assert len(plan) == -(-count // size)


def test_epochs_and_seeds_differ_and_come_back() -> None:
    plans = {
        (seed, epoch): torch.cat(batches.training(seed, epoch, 100, 10, None)).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(order) for order in plans.values()}) == 4
    assert plans[1, 1] == torch.cat(batches.training(1, 1, 100, 10, None)).tolist()


def test_texts_of_like_length_share_a_batch_and_batches_come_in_random_order() -> None:
    lengths = torch.randint(1, 100, (640,), generator=torch.Generator().manual_seed(0))
    plan = batches.training(0, 0, 640, 20, lengths)
    padding = sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in plan)
    unsorted = permutation(0, 0, 640).split(20)
    padding_unsorted = sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in unsorted)
    assert padding < padding_unsorted / 10
    longest = [int(lengths[batch].max()) for batch in plan]
    assert longest != sorted(longest)


@given(some.integers(1, 200), some.integers(1, 50), some.integers(1, 9), some.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_shares_of_a_batch_are_disjoint_complete_and_weighted(
    count: int, accumulate: int, world: int, scale: int
) -> None:
    batch_B = torch.arange(count)
    value_B = torch.rand(count, generator=torch.Generator().manual_seed(scale)).double()
    seen, mean = [], 0.0
    for rank in range(world):
        parts = batches.share(batch_B, accumulate, rank, world)
        assert len(parts) == accumulate
        seen += [index for own, weight in parts if weight for index in own.tolist()]
        mean += sum(float(value_B[own].mean()) * weight for own, weight in parts) / world
    assert sorted(seen) == list(range(count))
    assert mean == pytest.approx(float(value_B.mean()))


def test_a_rank_without_an_example_takes_part_with_weight_0() -> None:
    ((own, weight),) = batches.share(torch.tensor([7]), 1, 1, 2)
    assert (own.tolist(), weight) == ([7], 0.0)


@given(some.integers(0, 100), some.integers(1, 40), some.integers(1, 5), some.booleans())
@settings(max_examples=50, deadline=None)
def test_evaluation_shares_make_up_the_whole(count: int, size: int, world: int, ragged: bool) -> None:
    lengths = torch.arange(count) % 5 if ragged else None
    shares = [batches.evaluation(count, size, lengths, rank, world) for rank in range(world)]
    assert sorted(int(index) for share in shares for batch in share for index in batch) == list(range(count))
