"""A network in parts: each holds only its own tensors, and together they answer what the whole does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from benchmarks.apart import TEXT, encoder
from pipelines.sentiment.model import Model

TEXTS = [TEXT, "bad", "not a good day and not a bad day, 再也不来了", "good " * 60]
LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of an encoder of four layers."""
    return Path(encoder(tmp_path_factory.mktemp("models") / "encoder", layers=LAYERS).folder)


def held(part: nn.Module) -> set[str]:
    """The tensors that a stage holds, by their names in the artifact."""
    return {name for name, one in part.named_parameters() if one.numel()}


def joined(folder: Path, count: int) -> Model:
    """The model with its network in so many parts."""
    parts = [Model.load_stage(folder, index, count) for index in range(count)]

    def compute(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        tensors = [torch.from_numpy(array) for array in arrays]
        for part in parts:
            tensors = part(*tensors)
        return [tensor.numpy() for tensor in tensors]

    return Model.load_apart(folder, compute)


@pytest.mark.parametrize("count", [1, 2, 3, LAYERS + 2])
def test_the_parts_together_answer_bit_for_bit_what_the_whole_does(folder: Path, count: int):
    whole = Model.load(folder)
    assert joined(folder, count).predict(TEXTS) == whole.predict(TEXTS)


@pytest.mark.parametrize("count", [2, 3, LAYERS + 2])
def test_each_part_holds_its_own_tensors_and_no_tensor_is_held_twice(folder: Path, count: int):
    parts = [held(Model.load_stage(folder, index, count)) for index in range(count)]
    everything = load_file(folder / "model.safetensors")
    assert set.union(*parts) == set(everything)
    assert sum(map(len, parts)) == len(everything)


def test_two_parts_weigh_about_the_same(folder: Path):
    sizes = [sum(one.numel() for one in Model.load_stage(folder, index, 2).parameters()) for index in range(2)]
    assert max(sizes) / sum(sizes) < 0.65


def test_more_parts_than_there_are_is_refused_with_how_many_there_are(folder: Path):
    with pytest.raises(ValueError, match=r"--apart sentiment=7: the model has 6 parts to share out"):
        Model.load_stage(folder, 0, 7)


def test_a_model_without_an_encoder_is_one_piece(tmp_path: Path):
    from pipelines.sentiment import data
    from pipelines.sentiment.config import Config

    whole = Model.create(Config(), data.load(Config()))
    whole.save(tmp_path)
    whole.network.eval()
    with pytest.raises(ValueError, match="no encoder and so no layers to share out; give --apart sentiment, which"):
        Model.load_stage(tmp_path, 0, 2)
    assert joined(tmp_path, 1).predict(TEXTS) == whole.predict(TEXTS)
