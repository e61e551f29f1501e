"""What is asked of a cluster, and what is refused because the cluster lacks it."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving import convnet
from eagerly import flags
from eagerly.commands.serve import Serve
from services import models
from services.resources import Hardware, Resources
from services.scaling import Scaling


@pytest.mark.parametrize(
    ("resources", "processes", "there", "sentence"),
    [
        (Resources(gpu=True), 1, 0, "--gpu: the cluster has no GPU; leave out --gpu"),
        (Resources(gpu=True), 3, 2, "3 processes that each take 1 of a GPU need 3 GPUs, and the cluster has 2"),
        (Resources(gpu=True, gpus_per_replica=0.4), 5, 2, "5 processes that each take 0.4 of a GPU need 3 GPUs"),
    ],
)
def test_gpus_that_are_not_there_are_one_sentence(resources: Resources, processes: int, there: int, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        resources.check(processes, there)


def test_gpus_that_are_there_are_enough():
    Resources().check(9, 0)
    Resources(gpu=True).check(2, 2)
    Resources(gpu=True, gpus_per_replica=0.5).check(4, 2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--gpus-per-replica", "0.5"], "--gpus-per-replica needs --gpu"),
        (["--gpu", "--gpus-per-replica", "2"], "--gpus-per-replica is 2.0; it must be above 0 and at most 1"),
        (["--gpu", "--gpus-per-replica", "-1"], "--gpus-per-replica is -1.0"),
        (["sentiment", "--apart", "classifier"], "--apart classifier: 'classifier' is not served; .* one of sentiment"),
        (["sentiment", "--apart", "sentiment=0"], "--apart sentiment=0: '0' is no number of processes"),
        (["sentiment", "--apart", "sentiment=two"], "give sentiment or sentiment=2"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(words: list[str], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        flags.parse(Serve, words, "eagerly serve")


@pytest.mark.parametrize(
    ("hardware", "tasks", "replica", "part"),
    [
        (Hardware(cpus=1), {"sentiment"}, 0, 0),
        (Hardware(resources=Resources(gpu=True)), {"sentiment"}, 1, 1),
        (Hardware(resources=Resources(gpu=True, gpus_per_replica=0.5)), {"sentiment"}, 0.5, 0.5),
        (Hardware(resources=Resources(gpu=True), apart={"sentiment": 2}), {"sentiment"}, 0, 1),
        (Hardware(resources=Resources(gpu=True), apart={"sentiment": 2}), {"sentiment", "classifier"}, 1, 1),
    ],
)
def test_a_replica_asks_for_a_gpu_unless_all_it_serves_is_computed_apart(
    hardware: Hardware, tasks: set[str], replica: float, part: float
):
    assert hardware.actor(hardware.is_light(tasks)) == {"num_cpus": hardware.cpus, "num_gpus": replica}
    assert hardware.actor()["num_gpus"] == part


def test_parts_and_replicas_need_their_gpus_together():
    hardware = Hardware(Scaling(replicas=2), Resources(gpu=True), apart={"sentiment": 2})
    hardware.check({"sentiment"}, 2)
    with pytest.raises(ValueError, match="4 processes"):
        hardware.check({"sentiment", "classifier"}, 3)


def test_a_model_goes_onto_the_device_that_is_asked_for(tmp_path: Path):
    stored = convnet(tmp_path / "convnet")
    moved: Any = models.load(stored, "meta").model
    assert {one.device.type for one in moved.network.parameters()} == {"meta"}
    kept: Any = models.load(stored).model
    assert {one.device.type for one in kept.network.parameters()} == {"cpu"}


def test_a_gpu_is_used_where_torch_finds_one_and_refused_with_a_sentence_where_not(tmp_path: Path):
    import torch

    stored = convnet(tmp_path / "convnet")
    if torch.cuda.is_available():
        moved: Any = models.load(stored, "cuda").model
        assert {one.device.type for one in moved.network.parameters()} == {"cuda"}
    else:
        with pytest.raises(ValueError, match="--gpu: torch finds no GPU that it can use here"):
            models.load(stored, "cuda")
