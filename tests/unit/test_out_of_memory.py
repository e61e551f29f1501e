"""When memory runs out a rank cuts its micro-batches, and learns what it would have learned."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import training
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from training import PLAIN

from pipelines import loop, memory, results, tasks
from pipelines.place import Place

SHORT: dict[str, Any] = PLAIN | {"epochs": 2, "batch_size": 256}


class Full(torch.autograd.Function):
    """Lets values pass, and finds no memory for their gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def tight(room: int, where: str = "forward", error: type[Exception] = torch.OutOfMemoryError) -> Any:
    """Makes a classifier that has room for so many images at once."""
    task = tasks.find("classifier")
    real: ModuleType = task.train

    def loss(network: nn.Module, batch: Any) -> Tensor:
        if len(batch.targets) > room and where == "forward":
            network(batch.images)
            raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes. Error code 12")
        found = real.loss(network, batch)
        return Full.apply(found) if len(batch.targets) > room else found  # type: ignore[return-value]

    return with_train(task, SimpleNamespace(**{**vars(real), "loss": loss}))


def with_train(task: Any, train: Any) -> Any:
    return type("Replaced", (tasks.Task,), {"train": train})(task.name, task.package, task.folder)


def narrow(room: int) -> Any:
    """Makes a classifier that has room for so many images at once when it is evaluated."""
    task = tasks.find("classifier")
    train = SimpleNamespace(**vars(task.train))

    def scored(network: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        found = task.train.scored(network, batch)
        if len(batch.targets) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return found

    def tally(logits_BK: Tensor, targets_B: Tensor) -> dict[str, Tensor]:
        if len(targets_B) > room // 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return task.train.tally(logits_BK, targets_B)

    train.scored, train.tally = scored, tally
    train.measure = lambda network, batch: tally(*scored(network, batch))
    return with_train(task, train)


def learn(folder: Path, task: Any, place: Place | None = None, **flags: Any) -> training.Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    outcome = training.Outcome(folder)
    config = tasks.find("classifier").config.Config(**flags)
    outcome.metrics = loop.run(task, config, folder, place or Place(), outcome.events.append)
    return outcome


def learn_until(folder: Path, task: Any, step: int) -> None:
    """Learns with a checkpoint every 3 steps, and raises Stopped after a step."""

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "steps" and event["first"] >= step:
            raise training.Stopped

    folder.mkdir(parents=True)
    loop.run(task, tasks.find("classifier").config.Config(**SHORT), folder, Place(), emit, None, 3)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_smaller_micro_batches_give_the_same_trajectory(tmp_path: Path, where: str, error: type[Exception]) -> None:
    roomy = training.train(tmp_path / "roomy", **SHORT)
    short = learn(tmp_path / "short", tight(70, where, error), **SHORT)
    assert short.losses == pytest.approx(roomy.losses, abs=1e-5)
    assert [(event["step"], event["pieces"]) for event in short.named("memory")] == [(1, 4)]


def test_every_example_still_counts_once(tmp_path: Path) -> None:
    config = tasks.find("classifier").config.Config(**SHORT)
    data = training.counted(tasks.find("classifier").data.load(config))
    task = tight(70)
    loop.run(task, config, tmp_path, Place(), data=data)
    read = training.reads(data)["train"]
    twice = 256 + 128  # the first batch, tried whole, and its first half
    assert sorted(read[twice:]) == sorted(2 * list(range(len(data.train))))


def test_the_pieces_are_part_of_the_checkpoint(tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole", tight(70), **SHORT)
    with pytest.raises(training.Stopped):
        learn_until(tmp_path / "parts", tight(70), 7)
    parts = learn(tmp_path / "parts", tight(10_000), **SHORT)
    assert not parts.named("memory")
    assert all(torch.equal(parts.weights[name], value) for name, value in whole.weights.items())


def test_a_run_that_was_cut_alone_goes_on_in_two_as_it_would_have(tmp_path: Path, pair: training.Pair) -> None:
    roomy = training.train(tmp_path / "roomy", **SHORT)
    with pytest.raises(training.Stopped):
        learn_until(tmp_path / "parts", tight(70), 7)
    both, graphs = zip(*pair.run(learn_joined, tmp_path / "parts", SHORT), strict=True)
    assert both[0].losses == pytest.approx(roomy.losses[both[0].named("resume")[0]["step"] :], abs=1e-4)
    assert graphs == ({False}, {False})


def learn_joined(rank: int, folder: Path, flags: dict[str, Any]) -> tuple[training.Outcome, set[bool]]:
    """Learns as one of the pair; says too whether the network was joined as one with a static graph."""
    task, seen = tight(70), set[bool]()
    real = task.train.loss

    def loss(network: nn.Module, batch: Any) -> Tensor:
        assert isinstance(network, DistributedDataParallel)
        seen.add(network.static_graph)
        return real(network, batch)

    task.train.loss = loss
    return learn(folder, task, Place(rank, 2), **flags), seen


def test_no_room_for_a_single_example_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out of memory with a single example at a time; use a smaller network"):
        learn(tmp_path, tight(0), **SHORT)


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    task = tight(0)
    task.train.loss = lambda network, batch: network(batch.images[:, :, :2])
    with pytest.raises(RuntimeError, match="shape"):
        learn(tmp_path, task, **SHORT)


def test_a_rank_that_runs_out_alone_recovers_alone(tmp_path: Path, pair: training.Pair) -> None:
    flags: dict[str, Any] = SHORT | {"accumulate": 2}
    alone = training.train(tmp_path / "alone", **flags)
    both = pair.run(learn_tight, tmp_path / "pair", 1, "forward", flags)
    assert both[0].losses == pytest.approx(alone.losses, abs=1e-4)
    assert both[0].named("memory")[0]["pieces"] == 2


CHILD = """
import resource, sys
from pathlib import Path
import torch
import test_out_of_memory as tests
task = tests.tight(10_000)
small = task.train.loss
def loss(network, batch):
    needed = torch.empty(len(batch.targets) << 22, dtype=torch.uint8)  # 4 MiB an image
    return small(network, batch)
task.train.loss = loss
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + (900 << 20),) * 2)
outcome = tests.learn(Path(sys.argv[1]), task, **tests.SHORT | {"epochs": 1})
print([event["pieces"] for event in outcome.named("memory")], outcome.losses, sep=";")
"""


def test_an_allocator_that_really_fails_is_met_with_pieces(tmp_path: Path) -> None:
    short: dict[str, Any] = SHORT | {"epochs": 1}
    roomy = training.train(tmp_path / "roomy", **short)
    path = os.pathsep.join([str(training.ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "short")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    pieces, losses = (json.loads(part) for part in done.stdout.strip().splitlines()[-1].split(";"))
    assert len(pieces) == 1 and pieces[0] > 1  # how many depends on what PyTorch itself takes besides
    assert losses == pytest.approx(roomy.losses, abs=1e-4)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_ranks_that_cannot_go_back_say_so_and_the_next_start_cuts(
    tmp_path: Path, pair: training.Pair, where: str
) -> None:
    alone = training.train(tmp_path / "alone", **SHORT)
    with pytest.raises(memory.Exhausted, match="when resumed, cuts its micro-batches into 2 pieces"):
        pair.run(learn_tight, tmp_path / "pair", None, where, SHORT)
    both = pair.run(learn_tight, tmp_path / "pair", None, where, SHORT)
    assert both[0].losses == pytest.approx(alone.losses, abs=1e-4)


def test_ranks_that_cannot_cut_any_finer_end_with_a_sentence(tmp_path: Path, pair: training.Pair) -> None:
    flags = SHORT | {"batch_size": 4}
    with pytest.raises(memory.Exhausted, match="into 2 pieces"):
        pair.run(learn_without_room, tmp_path / "pair", flags)
    with pytest.raises(ValueError, match="out of memory with a single example at a time; use a smaller network"):
        pair.run(learn_without_room, tmp_path / "pair", flags)


def learn_without_room(rank: int, folder: Path, flags: dict[str, Any]) -> training.Outcome:
    """Learns as one of the pair, with room for nothing."""
    return learn(folder, tight(0), Place(rank, 2), **flags)


def learn_tight(rank: int, folder: Path, poor: int | None, where: str, flags: dict[str, Any]) -> training.Outcome:
    """Learns as one of the pair; rank `poor`, or each, has room for a third of a share."""
    return learn(folder, tight(10_000 if poor == 1 - rank else 40, where), Place(rank, 2), **flags)


def test_evaluation_in_smaller_batches_gives_the_same_metrics(tmp_path: Path) -> None:
    roomy = training.train(tmp_path / "roomy", **SHORT)
    short = learn(tmp_path / "short", narrow(70), **SHORT)
    assert [event["evaluation"] for event in short.named("memory")] == [8]  # 256 at a time, then 32
    assert short.losses == roomy.losses
    assert short.metrics == pytest.approx(roomy.metrics, abs=1e-9)
    for one, other in zip(short.named("epoch"), roomy.named("epoch"), strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-9)
    columns = [load_file(outcome.folder / results.FILE) for outcome in (short, roomy)]
    assert columns[0].keys() == columns[1].keys()
    assert all(torch.allclose(value, columns[1][name], atol=1e-5) for name, value in columns[0].items())


def test_how_evaluation_is_cut_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole", narrow(70), **SHORT)
    with pytest.raises(training.Stopped):
        learn_until(tmp_path / "parts", narrow(70), 7)
    parts = learn(tmp_path / "parts", narrow(70), **SHORT)
    assert not parts.named("memory")
    assert parts.metrics == whole.metrics


def test_no_room_to_evaluate_a_single_example_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out of memory with a single example at a time; use a smaller network"):
        learn(tmp_path, narrow(0), **SHORT)


def test_a_rank_that_runs_out_in_evaluation_cuts_alone_and_then_all_do(tmp_path: Path, pair: training.Pair) -> None:
    alone = training.train(tmp_path / "alone", **SHORT)
    both = pair.run(learn_narrow, tmp_path / "pair", 1, SHORT)
    assert [event["evaluation"] for event in both[0].named("memory")] == [4]
    assert both[0].metrics == pytest.approx(alone.metrics, abs=1e-4)


def test_ranks_with_shares_cannot_cut_alone_and_the_next_start_does(tmp_path: Path, pair: training.Pair) -> None:
    flags = SHORT | {"shard": True}
    whole = pair.run(training.train_ranked, tmp_path / "whole", flags)[0]
    with pytest.raises(memory.Exhausted, match="when resumed, cuts the batches of its evaluation into 4 pieces"):
        pair.run(learn_narrow, tmp_path / "pair", None, flags)
    assert json.loads((tmp_path / "pair" / memory.NAME).read_text()) == {memory.EVALUATION: 4}
    both = pair.run(learn_narrow, tmp_path / "pair", None, flags)
    assert both[0].metrics == pytest.approx(whole.metrics, abs=1e-6)


def learn_narrow(rank: int, folder: Path, poor: int | None, flags: dict[str, Any]) -> training.Outcome:
    """Learns as one of the pair; rank `poor`, or each, evaluates a few examples at a time."""
    return learn(folder, narrow(10_000 if poor == 1 - rank else 130), Place(rank, 2), **flags)
