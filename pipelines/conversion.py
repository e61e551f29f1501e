"""Between tensors and a model's own inputs and predictions.

A model says itself how, with schema(), from_tensors() and to_tensors(); for one that does not, all three are derived
from its examples and its predictions of them.
"""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from pipelines.schema import BYTES, DATATYPES, Array, Arrays, Schema, Tensor

log = logging.getLogger(__name__)

INPUT, OUTPUT = "input", "output"
"""The names of derived tensors."""
WAY_OUT = "give the model schema(), from_tensors() and to_tensors()"


@dataclass(frozen=True)
class Conversion:
    """How one model speaks tensors."""

    schema: Schema
    from_tensors: Callable[[Arrays], list[Any]]
    """Turns tensors that fit the schema into inputs, or the ValueError in place of an input that cannot be read."""
    to_tensors: Callable[[list[Any]], Arrays]
    """Turns predictions, none of them an error, into the schema's outputs."""
    blame: Callable[[Any, Exception], str]
    """Names the input tensor that a model's error is about: (input, error); empty for none in particular."""


def of(model: Any, stored: Schema | None = None) -> Conversion:
    """Finds out how a model speaks tensors.

    stored: the schema of the model's artifact, which is taken before the one that the code would make today. Without
    it, and without a schema() of its own, the model predicts its examples here. Raises ValueError when its inputs or
    predictions are of a type that no tensor is derived for.
    """
    if hasattr(model, "schema"):
        schema = stored or model.schema()
        return Conversion(
            schema, model.from_tensors, model.to_tensors, getattr(model, "blame", None) or _blame_first(schema)
        )
    examples = list(model.examples())
    schema = stored or _derive(examples, list(model.predict(examples)))
    return Conversion(schema, _Reader(schema.inputs[0], examples[0]), _Writer(schema.outputs[0]), _blame_first(schema))


def schema_of(model: Any) -> Schema | None:
    """Finds a model's schema for its artifact; None, and a line in the log, rather than losing a finished training."""
    try:
        return of(model).schema
    except Exception as problem:
        log.warning("no schema for the model: %s", problem)
        return None


def _derive(examples: list[Any], predictions: list[Any]) -> Schema:
    for prediction in predictions:
        if isinstance(prediction, Exception):
            raise ValueError(f"the model refuses its own examples: {prediction}")
    given, answered = _tensor(INPUT, examples), _tensor(OUTPUT, predictions)
    if given.content == "json" and not isinstance(examples[0], dict | list | tuple) and not is_dataclass(examples[0]):
        raise ValueError(f"no tensor is derived for inputs of the type {type(examples[0]).__name__}; {WAY_OUT}")
    return Schema((given,), (answered,))


def _tensor(name: str, values: list[Any]) -> Tensor:
    """Finds the tensor that holds such values, one an item."""
    if not values:
        raise ValueError(f"the model gives no examples, so no schema can be derived; {WAY_OUT}")
    for kind, datatype in ((bool, "BOOL"), (int, "INT64"), (int | float, "FP64"), (bytes, BYTES)):
        if all(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) for value in values):
            return Tensor(name, datatype, (-1,))
    if all(isinstance(value, str) for value in values):
        return Tensor(name, BYTES, (-1,), content="text")
    if all(hasattr(value, "__array__") for value in values):
        return _of_arrays(name, [np.asarray(value) for value in values])
    if all(isinstance(value, list | tuple) and value and _are_numbers(value) for value in values):
        return Tensor(name, "FP64", (-1, -1))
    try:
        json.dumps(values, default=_plain)
    except (TypeError, ValueError):
        kinds = ", ".join(sorted({type(value).__name__ for value in values}))
        raise ValueError(f"no tensor is derived for values of the type {kinds}; {WAY_OUT}") from None
    return Tensor(name, BYTES, (-1,), content="json")


def _of_arrays(name: str, arrays: list[Array]) -> Tensor:
    """Finds the tensor that holds arrays of one type, with -1 where their lengths differ."""
    if len({(array.dtype, array.ndim) for array in arrays}) == 1:
        shapes = zip(*(array.shape for array in arrays), strict=True)
        shape = tuple(lengths[0] if len(set(lengths)) == 1 else -1 for lengths in shapes)
        for datatype, dtype in DATATYPES.items():
            if datatype != BYTES and arrays[0].dtype == dtype:
                return Tensor(name, datatype, (-1, *shape))
    kinds = sorted({f"{array.dtype} of {array.ndim} dimensions" for array in arrays})
    raise ValueError(f"no tensor is derived for arrays of {' and '.join(kinds)}; {WAY_OUT}")


def _are_numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _blame_first(schema: Schema) -> Callable[[Any, Exception], str]:
    name = schema.inputs[0].name if len(schema.inputs) == 1 else ""
    return lambda given, error: name


@dataclass(frozen=True)
class _Reader:
    """Turns the one derived input tensor into inputs of the type that an example has."""

    tensor: Tensor
    example: Any

    def __call__(self, arrays: Arrays) -> list[Any]:
        array, example = arrays[self.tensor.name], self.example
        if self.tensor.content == "json":
            return [self._loaded(text) for text in array.tolist()]
        if type(example).__module__.partition(".")[0] == "torch":
            import torch

            return list(torch.from_numpy(array.copy()))
        if isinstance(example, np.ndarray):
            return list(array.copy()) if array.ndim > 1 else [np.array(one) for one in array]  # for 0-d examples
        if isinstance(example, np.generic):
            return list(array)
        return [tuple(one) for one in array.tolist()] if isinstance(example, tuple) else array.tolist()

    def _loaded(self, text: str) -> Any:
        """Reads an item from JSON, as the example's type; a ValueError in its place when it does not fit."""
        try:
            value = _DECODER.decode(text)
        except OverflowError:
            return ValueError("is JSON with a number that is too large")
        except (ValueError, RecursionError):
            return ValueError("is not valid JSON")
        kind = type(self.example)
        if is_dataclass(self.example):
            try:
                return kind(**value)
            except (TypeError, ValueError, LookupError):
                names = ", ".join(field.name for field in fields(self.example))
                return ValueError(f"is not a JSON object of the fields {names}")
        plain = list if kind is tuple else kind
        if not isinstance(value, plain):
            return ValueError(f"is not a JSON {'object' if plain is dict else 'list'}")
        return kind(value)


@dataclass(frozen=True)
class _Writer:
    """Turns predictions into the one derived output tensor."""

    tensor: Tensor

    def __call__(self, predictions: list[Any]) -> Arrays:
        tensor = self.tensor
        if tensor.datatype == BYTES:
            values = map(_ENCODER.encode, predictions) if tensor.content == "json" else predictions
            return {tensor.name: np.array([*values, None], dtype=object)[:-1]}
        if predictions and isinstance(predictions[0], list | tuple):
            return {tensor.name: _padded(predictions)}
        array = np.stack([np.asarray(one) for one in predictions])
        return {tensor.name: array.astype(DATATYPES[tensor.datatype], casting="same_kind", copy=False)}


def _padded(rows: list[Any]) -> Array:
    """Puts rows of numbers into one array, the shorter filled up with NaN."""
    array = np.full((len(rows), max(map(len, rows))), np.nan)
    for at, row in enumerate(rows):
        array[at, : len(row)] = row
    return array


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    """Reads a number of JSON; raises OverflowError for one that would become infinity."""
    number = float(digits)
    if math.isinf(number):
        raise OverflowError
    return number


def _plain(value: Any) -> Any:
    """Says what JSON holds in place of a dataclass, an array or a number of numpy's."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        return to_list()
    raise TypeError(f"a {type(value).__name__} has no JSON")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain)
