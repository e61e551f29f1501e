"""Random numbers come from counters: order, batching, workers and restarts change none of them."""

import torch

from pipelines.examples import Draw, digest, permutation, step_seed


def test_a_draw_depends_on_the_example_and_not_on_its_place_in_the_batch() -> None:
    draw = Draw(seed=3, epoch=5)
    whole_BC = draw.uniform(torch.arange(100), 4)
    order_B = permutation(0, 0, 100)
    assert torch.equal(draw.uniform(order_B, 4), whole_BC[order_B])


def test_a_draw_is_the_same_whatever_the_world() -> None:
    draw = Draw(seed=3, epoch=5)
    whole_BC = draw.uniform(torch.arange(100), 4)
    for world in (1, 2, 3, 7):
        for rank in range(world):
            assert torch.equal(draw.uniform(torch.arange(100)[rank::world], 4), whole_BC[rank::world])


def test_more_draws_leave_the_first_ones_alone() -> None:
    index_B = torch.arange(10)
    assert torch.equal(Draw(0, 0).uniform(index_B, 9)[:, :2], Draw(0, 0).uniform(index_B, 2))


def test_seeds_and_epochs_give_numbers_of_their_own() -> None:
    index_B = torch.arange(1000)
    drawn = {(seed, epoch): Draw(seed, epoch).uniform(index_B, 1) for seed in range(3) for epoch in range(3)}
    assert len({tuple(values.flatten().tolist()) for values in drawn.values()}) == 9
    for values in drawn.values():
        correlation = torch.corrcoef(torch.stack([drawn[0, 0].flatten(), values.flatten()]))[0, 1]
        assert values is drawn[0, 0] or abs(correlation) < 0.12


def test_draws_are_uniform() -> None:
    values_BC = Draw(1, 2).uniform(torch.arange(20_000), 3)
    assert values_BC.dtype == torch.float32
    assert float(values_BC.min()) >= 0 and float(values_BC.max()) < 1
    histogram = torch.histc(values_BC, 10, 0, 1) / values_BC.numel()
    assert float((histogram - 0.1).abs().max()) < 0.005
    columns_33 = torch.corrcoef(values_BC.T)
    assert float((columns_33 - torch.eye(3)).abs().max()) < 0.03


def test_a_permutation_is_one_and_depends_on_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): permutation(seed, epoch, 50) for seed in range(3) for epoch in range(3)}
    torch.manual_seed(99)
    assert all(torch.equal(order.sort().values, torch.arange(50)) for order in orders.values())
    assert len({tuple(order.tolist()) for order in orders.values()}) == 9
    assert torch.equal(orders[2, 1], permutation(2, 1, 50))


def test_every_micro_step_of_every_rank_has_a_seed_of_its_own() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(-1, 200) for rank in range(8)}
    assert len(seeds) == 3 * 201 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_digests_tell_the_same_bytes_in_other_parts_apart() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
    assert digest(b"ab", b"c") == digest(b"ab", b"c")
