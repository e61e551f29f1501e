"""What makes training faster or smaller leaves what is learned as it is: to the bit, or within rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
import training
from torch import nn
from training import PARITY, PLAIN, REGRESSION

from pipelines import microbatch, numerics, recomputing
from pipelines.place import Place
from pipelines.settings import Settings

NORMED: dict[str, Any] = {"epochs": 2, "batch_size": 256}
"""Batch norm, dropout, augmentation, AdamW; 12 steps."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> training.Outcome:
    return training.train(tmp_path_factory.mktemp("plain"), **NORMED)


def test_recomputing_gives_the_same_bits_with_dropout_and_batch_norm(tmp_path: Path, plain: training.Outcome) -> None:
    again = training.train(tmp_path, **NORMED, recompute=True)
    assert again.losses == plain.losses
    assert _same(again, plain)


@pytest.mark.parametrize("word", [PARITY, "classifier"])
def test_recomputing_on_two_processes_gives_the_same_bits(tmp_path: Path, pair: training.Pair, word: str) -> None:
    settings = {"word": word, "epochs": 1, "batch_size": 256}
    kept = pair.run(training.train_ranked, tmp_path / "kept", settings)[0]
    again = pair.run(training.train_ranked, tmp_path / "again", settings | {"recompute": True})[0]
    assert again.losses == kept.losses
    assert _same(again, kept)


def test_a_network_keeps_less_for_the_backward_pass_when_it_recomputes() -> None:
    most = {}
    for again in (False, True):
        network = nn.Sequential(*[layer for _ in range(16) for layer in (nn.Linear(64, 64), nn.Tanh())])
        if again:
            assert recomputing.recompute(network, ()) == 6
        with microbatch.Peak() as peak:
            network.train()(torch.ones(4096, 64)).sum().backward()
        most[again] = peak.most
    assert most[True] < 0.6 * most[False]


def test_blocks_are_those_a_task_names_and_a_name_that_fits_none_is_a_sentence() -> None:
    network = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), "head": nn.Linear(2, 1)})
    assert recomputing.blocks(network, ("layers.*",)) == [*network["layers"].children()]
    assert recomputing.blocks(network, ()) == [*network["layers"].children()]
    with pytest.raises(ValueError, match=r"BLOCKS of train\.py names 'layer\.\*', and no module of the network is"):
        recomputing.blocks(network, ("layer.*",))


def test_channels_last_learns_the_same_and_is_resumed_bit_identical(tmp_path: Path, plain: training.Outcome) -> None:
    flags: dict[str, Any] = {**NORMED, "channels_last": "yes"}
    whole = training.train(tmp_path / "whole", **flags)
    assert whole.losses == pytest.approx(plain.losses, abs=1e-3)
    training.stop(tmp_path / "parts", stop_at=9, checkpoint_steps=4, **flags)
    parts = training.train(tmp_path / "parts", checkpoint_steps=4, **flags)
    assert parts.losses == whole.losses[8:]
    assert _same(parts, whole)


def test_measuring_leaves_no_trace_and_is_done_once(tmp_path: Path, plain: training.Outcome) -> None:
    flags: dict[str, Any] = {**NORMED, "compile": "auto", "channels_last": "auto"}
    training.stop(tmp_path, stop_at=9, checkpoint_steps=4, **flags)
    (said,) = (tmp_path / "choices.json").read_text().splitlines()
    chosen = '{"channels_last": 0, "compile": 0}', '{"channels_last": 1, "compile": 0}'
    assert said in chosen
    resumed = training.train(tmp_path, checkpoint_steps=4, **flags)
    assert resumed.named("channels_last") == []
    if said == chosen[0]:
        assert _same(resumed, plain)


def test_a_run_that_is_too_short_is_not_compiled_and_says_so(tmp_path: Path) -> None:
    outcome = training.train(tmp_path, REGRESSION, epochs=3, compile="auto")
    (event,) = outcome.named("compiled")
    assert not event["used"]
    assert "too short for compiling to pay" in event["why"]


def test_float16_learns_as_float32_does_and_is_resumed_bit_identical(tmp_path: Path) -> None:
    flags: dict[str, Any] = {**PLAIN, "epochs": 1, "amp": "fp16"}
    full = training.train(tmp_path / "full", **{**flags, "amp": "no"})
    whole = training.train(tmp_path / "whole", **flags)
    assert whole.losses != full.losses
    assert whole.losses == pytest.approx(full.losses, abs=0.02)
    training.stop(tmp_path / "parts", stop_at=15, checkpoint_steps=10, **flags)
    parts = training.train(tmp_path / "parts", checkpoint_steps=10, **flags)
    assert parts.losses == whole.losses[10:]
    assert _same(parts, whole)


def test_deterministic_kernels_are_asked_for_during_a_run_alone(tmp_path: Path) -> None:
    asked: list[bool] = []
    device = torch.device("cpu")
    with numerics.chosen(Settings(deterministic=True), device):
        asked.append(torch.are_deterministic_algorithms_enabled())
    training.train(tmp_path, REGRESSION, epochs=2, deterministic=True)
    assert asked == [True]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("flags", [{"deterministic": True}, {"amp": "bf16"}, {"amp": "fp16"}, {"channels_last": "yes"}])
def test_two_runs_on_a_gpu_give_the_same_bits(tmp_path: Path, flags: dict[str, Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    exact = NORMED | flags | {"deterministic": True, "tf32": "no"}
    one = training.train(tmp_path / "one", place=Place(device="cuda:0"), **exact)
    other = training.train(tmp_path / "other", place=Place(device="cuda:0"), **exact)
    assert one.losses == other.losses
    assert _same(one, other)


def _same(one: training.Outcome, other: training.Outcome) -> bool:
    ours, theirs = one.weights, other.weights
    return one.metrics == other.metrics and all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)
