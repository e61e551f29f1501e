"""Two processes that hold half of the weights each learn what two that hold all do, and are resumed exactly."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import training
from training import PARITY, PLAIN, REGRESSION

from pipelines import artifact, recomputing, sharding
from pipelines.nested import tensors
from pipelines.place import Place
from pipelines.saving import Keeping, Saver

WEIGHTS_MB = 64
FULL: dict[str, Any] = {"epochs": 2, "batch_size": 256, "clip": 1.0, "ema": 0.9, "recompute": True}
"""The default recipe with batch norm, dropout, augmentation and AdamW, and what else goes with shares."""


def test_shares_learn_what_copies_learn(tmp_path: Path, pair: training.Pair) -> None:
    copies = pair.run(training.train_ranked, tmp_path / "copies", FULL)[0]
    first, second = pair.run(training.train_ranked, tmp_path / "shares", FULL | {"shard": True})
    assert first.losses == pytest.approx(copies.losses, abs=1e-5)
    assert first.metrics == second.metrics == pytest.approx(copies.metrics, abs=1e-4)
    assert all(_near(first.weights[name], value) for name, value in copies.weights.items())
    assert artifact.verify(tmp_path / "shares" / "artifact") == first.named("test")[0]["digest"]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_shares_learn_by_every_optimizer(tmp_path: Path, pair: training.Pair, optimizer: str) -> None:
    flags = PLAIN | {"epochs": 1, "batch_size": 256, "optimizer": optimizer, "lr": 0.001}
    copies = pair.run(training.train_ranked, tmp_path / "copies", flags)[0]
    shares = pair.run(training.train_ranked, tmp_path / "shares", flags | {"shard": True})[0]
    assert shares.losses == pytest.approx(copies.losses, abs=1e-5)


def test_shares_accumulate_and_scale_the_loss_as_copies_do(tmp_path: Path, pair: training.Pair) -> None:
    flags = PLAIN | {"epochs": 1, "accumulate": 3, "optimizer": "adam", "amp": "fp16", "lr": 0.001}
    copies = pair.run(training.train_ranked, tmp_path / "copies", flags)[0]
    shares = pair.run(training.train_ranked, tmp_path / "shares", flags | {"shard": True})[0]
    assert shares.losses == pytest.approx(copies.losses, abs=2e-3)


def test_a_run_in_shares_is_resumed_bit_identical(tmp_path: Path, pair: training.Pair) -> None:
    settings = FULL | {"shard": True, "checkpoint_steps": 4, "early_stopping": 2}
    whole = pair.run(training.train_ranked, tmp_path / "whole", settings)[0]
    pair.run(training.stop_ranked, tmp_path / "parts", 9, settings)
    parts = pair.run(training.train_ranked, tmp_path / "parts", settings)[0]
    assert parts.named("resume")[0]["step"] == 8
    assert parts.losses == whole.losses[8:]
    assert parts.metrics == whole.metrics
    assert all(torch.equal(parts.weights[name], value) for name, value in whole.weights.items())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_run_of_one_worker_goes_on_in_the_shares_of_two_and_returns(
    tmp_path: Path, pair: training.Pair, optimizer: str
) -> None:
    flags = PLAIN | {"epochs": 3, "batch_size": 256, "optimizer": optimizer, "lr": 0.001, "checkpoint_steps": 4}
    parts = {}
    for name, shard in (("copies", False), ("shares", True)):
        folder = tmp_path / name
        settings: dict[str, Any] = flags | {"ema": 0.9, "shard": shard}
        training.stop(folder, stop_at=5, **settings)
        pair.run(training.stop_ranked, folder, 5, settings)
        parts[name] = training.train(folder, **settings)
    both = pair.run(training.train_ranked, tmp_path / "shares", settings)[0]
    assert parts["shares"].named("resume")[0]["step"] == 8
    assert parts["shares"].losses == pytest.approx(parts["copies"].losses, abs=1e-5)
    assert both.metrics == pytest.approx(parts["shares"].metrics, abs=1e-6)
    assert all(_near(parts["shares"].weights[name], value) for name, value in parts["copies"].weights.items())


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_weight_that_no_step_has_used_yet_begins_in_shares_as_it_would_have(
    pair: training.Pair, optimizer: str
) -> None:
    for whole, shares in pair.run(use_late, optimizer):
        assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(whole, shares, strict=True))


def test_shares_and_an_average_learn_the_same_whether_an_epoch_is_saved_or_not(
    tmp_path: Path, pair: training.Pair
) -> None:
    saved, unsaved = (pair.run(train_saving, tmp_path / str(ready), ready)[0] for ready in (True, False))
    assert len(saved.losses) == len(unsaved.losses) > 0
    assert saved.losses == unsaved.losses
    assert saved.metrics == unsaved.metrics


def test_a_graph_that_depends_on_data_is_learned_in_shares(tmp_path: Path, pair: training.Pair) -> None:
    settings = {"word": PARITY, "epochs": 1, "shard": True}
    copies = pair.run(training.train_ranked, tmp_path / "copies", settings | {"shard": False})[0]
    shares = pair.run(training.train_ranked, tmp_path / "shares", settings)[0]
    assert shares.losses == pytest.approx(copies.losses, abs=1e-4)
    assert shares.metrics == pytest.approx(copies.metrics, abs=1e-3)


def test_each_rank_holds_its_share_alone(pair: training.Pair) -> None:
    sizes = pair.run(share_out)
    assert [size["held"] for size in sizes] == [size["all"] / 2 for size in sizes]


def test_a_rank_goes_on_from_a_checkpoint_without_the_shares_of_the_others(tmp_path: Path, pair: training.Pair) -> None:
    first, second = pair.run(go_on, tmp_path)
    assert first["weights"] == second["weights"] == first["written"]
    assert first["moments"] == second["moments"] == 1.0
    assert second["given_MB"] == 0 and first["given_MB"] == 3 * WEIGHTS_MB
    assert second["peak_MB"] < 2 * WEIGHTS_MB  # moments and gradients of its own half, and some room


def test_one_worker_has_nothing_to_share_out(tmp_path: Path) -> None:
    alone = training.train(tmp_path / "alone", **PLAIN, epochs=1)
    shared = training.train(tmp_path / "shared", **PLAIN, epochs=1, shard=True)
    assert shared.losses == alone.losses


def train_saving(rank: int, folder: Path, ready: bool) -> training.Outcome:
    """Trains as one of the pair, with a checkpoint after each epoch or after the last alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "is_ready", lambda self: ready)
        flags = {"word": REGRESSION, "epochs": 3, "ema": 0.9, "shard": True}
        return training.train_ranked(rank, folder, flags)


def use_late(rank: int, kind: str) -> list[list[torch.Tensor]]:
    """Steps on one of two weights, goes on in shares or not, and steps on both; gives the weights of both ways."""
    found = []
    for shard in (False, True):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False))
        made = torch.optim.Adam if kind == "adam" else torch.optim.RMSprop
        optimizer = made(network.parameters(), lr=0.1)
        network[0].weight.grad = torch.ones(4, 4)
        optimizer.step()
        if shard:
            state = optimizer.state_dict() if rank == 0 else {}
            sharding.shard(network, list(network), torch.device("cpu"), 2)
            optimizer = made(network.parameters(), lr=0.1)
            sharding.load_optimizer(network, optimizer, state)
        for weight in network.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        weights = [weight.detach() for weight in network.parameters()]
        found.append([weight.full_tensor() for weight in weights] if shard else weights)  # type: ignore[operator]
    return found


def share_out(rank: int) -> dict[str, float]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
    network.register_parameter("places", torch.nn.Parameter(torch.arange(3), requires_grad=False))
    count = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    sharding.shard(network, recomputing.blocks(network, ()), torch.device("cpu"), dist.get_world_size())
    held = sum(sharding.local(weight).numel() for weight in network.parameters() if weight.requires_grad)
    return {"all": count, "held": held}


def go_on(rank: int, folder: Path) -> dict[str, float]:
    """Writes a checkpoint in shares, forgets all, and goes on from it; says what that took beside the shares."""
    saver = Saver(folder, Place(rank, 2), lambda event: None, Keeping())
    network, optimizer = _wide(0.5)
    for weight in network.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    written = float(next(network.parameters()).full_tensor()[0, 0])  # type: ignore[operator]
    state = {"network": sharding.network_state(network), "optimizer": sharding.optimizer_state(network, optimizer)}
    saver.save(1, state, None)
    saver.finish()
    del network, optimizer, state, saver
    again, optimizer = _wide(0.0)
    saver = Saver(folder, Place(rank, 2), lambda event: None, Keeping())
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before_MB = _status_MB("VmRSS")
    found = saver.latest(sharding.WHOLE)
    assert found is not None
    given_MB = sum(value.numel() * 4 for value in tensors(found[0]) if value.dim()) / 2**20
    sharding.load_network(again, found[0]["network"])
    sharding.load_optimizer(again, optimizer, found[0]["optimizer"])
    peak_MB = _status_MB("VmHWM") - before_MB
    firsts = [sharding.local(weight) for weight in again.parameters()]
    moments = [sharding.local(optimizer.state[weight]["exp_avg"]) / 0.1 for weight in again.parameters()]
    weights, moment = (float(torch.cat(values).unique()) for values in (firsts, moments))
    return {"written": written, "weights": weights, "moments": moment, "given_MB": given_MB, "peak_MB": peak_MB}


def _wide(value: float) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Makes a network of WEIGHTS_MB, shared out, all of whose weights are one number."""
    network = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024, bias=False) for _ in range(WEIGHTS_MB // 4)])
    for weight in network.parameters():
        torch.nn.init.constant_(weight, value)
    sharding.shard(network, list(network), torch.device("cpu"), 2)
    return network, torch.optim.AdamW(network.parameters(), lr=0.25, weight_decay=0.0)


def _status_MB(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    distance = float((one.double() - other.double()).norm())
    return distance <= 1e-4 * max(1.0, math.sqrt(one.numel()))
