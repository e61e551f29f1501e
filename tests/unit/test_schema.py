"""What a model takes and gives as tensors: written down, checked, and derived where the model does not say."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import inference
import numpy as np
import pytest
import torch

from pipelines import artifact, conversion
from pipelines.schema import Schema, Tensor

TEXT = Tensor("text", "BYTES", (-1,), content="text", most_characters=100)
SCORES = Tensor("scores", "FP32", (-1, 2), labels=("schlecht", "好"))


@dataclass
class Point:
    x: float
    y: float = 0.0


class Echo:
    """A model that answers what a function makes of each input."""

    def __init__(self, examples: list[Any], answer: Any) -> None:
        self.given, self.answer = examples, answer

    def examples(self) -> list[Any]:
        return self.given

    def predict(self, inputs: list[Any]) -> list[Any]:
        return [self.answer(one) for one in inputs]


def same(value: Any) -> Any:
    return value


def test_a_schema_is_read_as_it_was_written() -> None:
    schema = Schema((TEXT, Tensor("k", "INT64", (-1,), lowest=1, highest=9, optional=True)), (SCORES,))
    assert Schema.from_json(schema.to_json()) == schema
    assert json.loads(schema.to_json())["inputs"][1] == {
        "name": "k",
        "datatype": "INT64",
        "shape": [-1],
        "lowest": 1,
        "highest": 9,
        "optional": True,
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"inputs": [], "outputs": []}', '{"inputs": [{"nam": 1}]}', "7"])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"schema|Expecting"):
        Schema.from_json(text)


@pytest.mark.parametrize(
    ("datatype", "shape", "content", "match"),
    [
        ("FLOAT", (-1,), "", "'FLOAT'; it must be one of BOOL"),
        ("FP32", (), "", "must begin with -1"),
        ("FP32", (3,), "", "must begin with -1"),
        ("FP32", (-1, 0), "", "must begin with -1"),
        ("FP32", (-1,), "text", "only BYTES hold text"),
        ("BYTES", (-1,), "xml", "only BYTES hold text"),
    ],
)
def test_a_tensor_that_the_protocol_does_not_have_is_refused(
    datatype: str, shape: tuple[int, ...], content: str, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        Tensor("x", datatype, shape, content)


def test_two_tensors_of_a_side_have_two_names() -> None:
    with pytest.raises(ValueError, match="each with its own name"):
        Schema((TEXT, TEXT), (SCORES,))


@pytest.mark.parametrize(
    ("examples", "datatype", "shape", "content"),
    [
        ([0.5, 2.0], "FP64", (-1,), ""),
        ([1, 2.5], "FP64", (-1,), ""),
        ([1, 2], "INT64", (-1,), ""),
        ([True, False], "BOOL", (-1,), ""),
        (["a", "bc"], "BYTES", (-1,), "text"),
        ([b"a", b"\xff"], "BYTES", (-1,), ""),
        ([np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)], "FP32", (-1, 2, 3), ""),
        ([np.zeros((2, 3), np.uint8), np.ones((2, 5), np.uint8)], "UINT8", (-1, 2, -1), ""),
        ([np.float32(1.5), np.float32(2)], "FP32", (-1,), ""),
        ([torch.zeros(4), torch.ones(4)], "FP32", (-1, 4), ""),
        ([[1.0, 2], [3.0]], "FP64", (-1, -1), ""),
        ([(1, 2), (3, 4)], "FP64", (-1, -1), ""),
        ([{"a": [1, None]}, {"b": "x"}], "BYTES", (-1,), "json"),
        ([Point(1.0), Point(2.0, 3.0)], "BYTES", (-1,), "json"),
    ],
)
def test_a_schema_is_derived_from_examples_and_carries_them_there_and_back(
    examples: list[Any], datatype: str, shape: tuple[int, ...], content: str
) -> None:
    found = conversion.of(Echo(examples, same))
    for tensor, name in ((found.schema.inputs[0], "input"), (found.schema.outputs[0], "output")):
        assert (tensor.name, tensor.datatype, tensor.shape, tensor.content) == (name, datatype, shape, content)
    for example in examples[:1]:
        array = found.to_tensors([example])["output"]
        (again,) = found.from_tensors({"input": array})
        assert type(again) is type(example) or datatype == "FP64"
        assert np.array_equal(again, example) if hasattr(example, "__array__") else again == example


def test_lists_of_numbers_of_different_lengths_are_filled_up_with_nan() -> None:
    found = conversion.of(Echo([[1.0], [2.0, 3.0]], same))
    array = found.to_tensors([[1.0], [2.0, 3.0]])["output"]
    assert np.array_equal(array, [[1.0, np.nan], [2.0, 3.0]], equal_nan=True)


def test_a_prediction_that_is_a_dataclass_goes_out_as_json() -> None:
    found = conversion.of(Echo(["a"], lambda text: Point(len(text))))
    (text,) = found.to_tensors([Point(1.0, 2.0)])["output"]
    assert json.loads(text) == {"x": 1.0, "y": 2.0}


@pytest.mark.parametrize("text", ["{", "[1]", '{"z": 1}', '{"x": NaN}', '{"x": 1e999}', "7"])
def test_json_that_does_not_fit_is_an_error_of_its_item_alone(text: str) -> None:
    found = conversion.of(Echo([Point(1.0)], same))
    good, bad = found.from_tensors({"input": np.array(['{"x": 4}', text], dtype=object)})
    assert good == Point(4)
    assert isinstance(bad, ValueError) and "JSON" in str(bad)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_number_that_json_has_not_is_no_answer(number: float) -> None:
    found = conversion.of(Echo([{"x": 1.0}], same))
    with pytest.raises(ValueError, match="not JSON compliant"):
        found.to_tensors([{"x": 1.0}, {"x": number}])


def test_a_number_that_would_lose_its_fraction_is_no_answer() -> None:
    found = conversion.of(Echo([1], same))
    with pytest.raises(TypeError, match="same_kind"):
        found.to_tensors([1.5])


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (Echo([object()], str), "type object; give the model schema"),
        (Echo(["a"], lambda text: object()), "type object; give the model schema"),
        (Echo([], same), "gives no examples"),
        (Echo([np.zeros(2), np.zeros((2, 2))], same), "2 dimensions"),
        (Echo(["a"], lambda text: ValueError("too short")), "refuses its own examples: too short"),
    ],
)
def test_a_model_that_no_tensor_can_serve_is_told_the_way_out(model: Echo, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        conversion.of(model)


def test_a_training_is_not_lost_for_want_of_a_schema(caplog: pytest.LogCaptureFixture) -> None:
    assert conversion.schema_of(Echo([object()], str)) is None
    assert "no schema for the model" in caplog.text


def test_the_stored_schema_is_taken_before_the_one_that_would_be_derived() -> None:
    stored = conversion.of(Echo(["a"], same)).schema
    assert conversion.of(Echo(["a"], lambda text: 1 / 0), stored).schema == stored


def test_the_schema_lies_in_the_artifact_under_the_digest(tmp_path: Path) -> None:
    model = inference.own_model("parity")
    artifact.write(tmp_path / "artifact", "parity", model.save, conversion.schema_of(model))
    artifact.verify(tmp_path / "artifact")
    found = artifact.schema_of(tmp_path / "artifact")
    assert found is not None and found.inputs[0].content == "text"
    (tmp_path / "artifact" / "schema.json").write_text("{}")
    with pytest.raises(ValueError, match=r"schema.json"):
        artifact.verify(tmp_path / "artifact")


def test_an_artifact_without_a_schema_is_still_an_artifact(tmp_path: Path) -> None:
    artifact.write(tmp_path / "artifact", "parity", inference.own_model("parity").save)
    assert artifact.schema_of(tmp_path / "artifact") is None
