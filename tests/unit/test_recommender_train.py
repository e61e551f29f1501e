"""The loss, the ranking metrics checked by hand, and the baselines against their definitions."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipelines.examples import Draw
from pipelines.recommender import baselines, ranking, text, train
from pipelines.recommender.data import Batch
from pipelines.recommender.histories import Histories
from pipelines.recommender.network import Network
from pipelines.recommender.tables import Item


class Fixed(nn.Module):
    """Gives the same scores to everybody."""

    def __init__(self, scores_I: Tensor) -> None:
        super().__init__()
        self.scores_I = scores_I

    def forward(self, seen_BI: Tensor) -> Tensor:
        return self.scores_I.expand_as(seen_BI)


def batch(seen: list[int], targets: list[int], items: int = 20) -> Batch:
    """Makes a batch of one user."""
    marked = torch.zeros(2, 1, items)
    marked[0, 0, seen] = marked[1, 0, targets] = 1
    return Batch(marked[0], marked[1])


def random_histories(users: int, items: int) -> Histories:
    """Lets each user have about a third of the items, the last of which nobody has."""
    users_N, items_N = (Draw(0, 0).uniform(torch.arange(users), items - 1) < 0.35).nonzero().T
    return Histories.group(users_N, items_N, users)


def test_ndcg_recall_and_precision_are_as_worked_out_by_hand() -> None:
    scores_I = -torch.arange(20.0)  # item 0 is best
    # items 0 and 1 are seen: item 2 is first, item 4 third, item 19 is eighteenth
    sums = train.measure(Fixed(scores_I), batch([0, 1], [2, 4, 19]))
    found = train.metrics(sums)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["ndcg_at_10"] == pytest.approx((1 + 1 / math.log2(4)) / ideal)
    assert found["recall_at_10"] == pytest.approx(2 / 3)
    assert found["precision_at_10"] == pytest.approx(0.2)
    assert found["hit_at_10"] == 1.0
    assert found["coverage"] == pytest.approx(10 / 20)


def test_more_hidden_items_than_places_can_still_be_ranked_perfectly() -> None:
    found = train.metrics(train.measure(Fixed(-torch.arange(20.0)), batch([], list(range(15)))))
    assert found["ndcg_at_10"] == pytest.approx(1.0)
    assert found["recall_at_10"] == pytest.approx(1.0)


def test_an_item_that_is_seen_is_never_ranked_however_high_its_score() -> None:
    scores_I = torch.zeros(20)
    scores_I[3] = 1e9
    sums = ranking.sums(scores_I[None], batch([3], [5]))
    assert sums["shown"][3] == 0


def test_sums_of_parts_add_up_to_the_whole() -> None:
    network = Fixed(torch.randn(20, generator=torch.Generator().manual_seed(0)))
    one, other = batch([0], [2, 4]), batch([5, 6], [7])
    whole = Batch(torch.cat([one.seen, other.seen]), torch.cat([one.targets, other.targets]))
    first, second, both = (train.measure(network, part) for part in (one, other, whole))
    assert train.metrics({key: first[key] + second[key] for key in first}) == pytest.approx(train.metrics(both))


def test_the_loss_picks_each_item_among_all_that_the_user_does_not_have() -> None:
    loss = train.loss(Fixed(torch.zeros(20)), batch([0, 1, 2, 3], [2, 3, 5, 6]))
    assert float(loss) == pytest.approx(math.log(15))  # itself and the 14 that are neither seen nor a target


def test_an_item_that_a_user_has_is_scored_by_the_users_other_items() -> None:
    network = Network(text.bags([Item(str(at), f"Book {at}") for at in range(6)], 64), 64, 8, 0.0, 0.0)
    network.start(torch.ones(6))
    seen_BI = torch.tensor([[1.0, 1, 1, 0, 0, 0]])
    vectors_ID = network.items()
    expected = ((vectors_ID[1] + vectors_ID[2]) / math.sqrt(3)) @ vectors_ID[0] + network.item_bias[0]
    torch.testing.assert_close(network(seen_BI)[0, 0], expected)


def test_a_user_with_nothing_hidden_adds_no_loss() -> None:
    assert float(train.loss(Fixed(torch.zeros(20)), batch([0], []))) == 0.0


def test_popularity_ranks_by_the_number_of_users() -> None:
    histories = random_histories(9, 6)
    scores_BI = baselines.popularity(histories, 6)(torch.tensor([0, 3]))
    assert torch.equal(scores_BI[1], histories.dense(torch.arange(9), 6).sum(0))


@pytest.mark.parametrize(("users", "items"), [(30, 8), (6, 14)])
def test_ease_is_its_closed_form_with_few_items_and_with_few_users(users: int, items: int) -> None:
    histories = random_histories(users, items)
    history_UI = histories.dense(torch.arange(users), items).double()
    inverse_II = torch.linalg.inv(history_UI.T @ history_UI + 2.0 * torch.eye(items, dtype=torch.float64))
    weights_II = -inverse_II / inverse_II.diagonal()
    weights_II.fill_diagonal_(0)
    scores_BI = baselines.ease(histories, items, 2.0)(torch.arange(users))
    torch.testing.assert_close(scores_BI.double(), history_UI @ weights_II, rtol=1e-4, atol=1e-5)


def test_ease_weights_minimise_the_squared_error_for_every_item() -> None:
    users, items, penalty = 12, 5, 3.0
    histories = random_histories(users, items)
    history_UI = histories.dense(torch.arange(users), items).double()
    scores_UI = baselines.ease(histories, items, penalty)(torch.arange(users)).double()
    for item in range(items - 1):
        others_UJ = history_UI[:, [other for other in range(items) if other != item]]
        gram_JJ = others_UJ.T @ others_UJ + penalty * torch.eye(items - 1, dtype=torch.float64)
        weights_J = torch.linalg.solve(gram_JJ, others_UJ.T @ history_UI[:, item])
        torch.testing.assert_close(scores_UI[:, item], others_UJ @ weights_J, rtol=1e-4, atol=1e-5)
