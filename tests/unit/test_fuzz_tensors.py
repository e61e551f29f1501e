"""The fuzzer's task of a user's own: the oracle and the server agree on elements of every datatype, good and bad."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from grpc import aio

from benchmarks.fuzz import call, fault, methods, settings
from benchmarks.fuzzing import datatypes, tensors
from benchmarks.fuzzing.elements import HOLDERS, packed
from benchmarks.fuzzing.tensor_oracle import TensorOracle
from benchmarks.fuzzing.verdicts import Actual, Refusal, invalid
from benchmarks.target import OWN, Target, running
from services.oip import open_inference_pb2 as pb

RAW = "raw_input_contents[0]"
GOOD: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "UINT8": [0, 255, 7, 1],
    "UINT16": [65_535],
    "UINT32": [2**32 - 1],
    "UINT64": [10**18],
    "INT8": [-128],
    "INT16": [20],
    "INT32": [-5],
    "INT64": [-(10**18)],
    "FP16": [-0.1, 1000.0],
    "FP32": [-0.1, 1e-45, -0.0],
    "FP64": [-0.1],
    "BYTES": [b"", b"\xff" * datatypes.MOST_BYTES],
}
"""One item of each datatype, at the limits of what is allowed."""
FORMS = [(datatype, True) for datatype in GOOD] + [(datatype, False) for datatype in HOLDERS]
"""Each datatype in raw contents and in typed ones, which cannot hold FP16."""


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running(models=[OWN], **settings()) as server:
        yield server


def request(datatype: str, values: list[Any], *, raw: bool, holder: str = "") -> bytes:
    """One item of one input."""
    shape = {"BOOL": [1, len(values)], "UINT8": [1, 2, 2], "FP16": [1, 2], "FP32": [1, 3], "BYTES": [1, len(values)]}
    asked = pb.ModelInferRequest(model_name=OWN)
    given = asked.inputs.add(name=datatype.lower(), datatype=datatype, shape=shape.get(datatype, [1]))
    if raw:
        asked.raw_input_contents.append(packed(datatype, values))
    else:
        getattr(given.contents, holder or HOLDERS[datatype]).extend(values)
    return asked.SerializeToString()


def answer(target: Target, body: bytes) -> Actual:
    async def run() -> Actual:
        async with aio.insecure_channel(target.address) as channel:
            return await call(channel, methods(target)[-1], body)

    return asyncio.run(run())


@pytest.mark.parametrize(("datatype", "raw"), FORMS)
def test_elements_at_the_limits_are_read_as_they_were_sent(target: Target, datatype: str, raw: bool):
    body = request(datatype, GOOD[datatype], raw=raw)
    expected = TensorOracle(target).infer(body)
    assert expected.whole == set() and expected.checksums
    actual = answer(target, body)
    assert fault(expected, actual) == ""
    assert [output.name for output in actual.response.outputs] == ["checksum", "scores"]


TYPED = "inputs[0].contents"
BAD = {
    "NaN in FP16": (request("FP16", [0.5, math.nan], raw=True), invalid(RAW, "NOT_FINITE")),
    "infinity in FP32": (request("FP32", [0.5, 0.5, math.inf], raw=True), invalid(RAW, "NOT_FINITE")),
    "infinity in FP64": (request("FP64", [-math.inf], raw=True), invalid(RAW, "NOT_FINITE")),
    "typed NaN in FP32": (
        request("FP32", [0.5, math.nan, 0.5], raw=False),
        invalid(f"{TYPED}.fp32_contents[1]", "NOT_FINITE"),
    ),
    "typed NaN in FP64": (request("FP64", [math.nan], raw=False), invalid(f"{TYPED}.fp64_contents[0]", "NOT_FINITE")),
    "too much": (request("FP64", [1000.1], raw=False), invalid(f"{TYPED}.fp64_contents[0]", "OUT_OF_RANGE")),
    "too little": (request("FP16", [-0.11, 0], raw=True), invalid(RAW, "OUT_OF_RANGE")),
    "a BOOL of 2": (request("BOOL", [1, 2], raw=True), invalid(RAW, "OUT_OF_RANGE")),
    "no INT8": (request("INT8", [128], raw=False), invalid(f"{TYPED}.int_contents[0]", "OUT_OF_RANGE")),
    "no UINT16": (request("UINT16", [65_536], raw=False), invalid(f"{TYPED}.uint_contents[0]", "OUT_OF_RANGE")),
    "beyond a range": (request("INT32", [1001], raw=True), invalid(RAW, "OUT_OF_RANGE")),
    "just above 1e18": (request("UINT64", [10**18 + 1], raw=True), invalid(RAW, "OUT_OF_RANGE")),
    "just below -1e18": (
        request("INT64", [-(10**18) - 1], raw=False),
        invalid(f"{TYPED}.int64_contents[0]", "OUT_OF_RANGE"),
    ),
    "long bytes": (request("BYTES", [b"a" * 21], raw=True), invalid(RAW, "TOO_LONG")),
    "another field": (
        request("FP32", [0.5, 0.5, 0.5], raw=False, holder="fp64_contents"),
        invalid(f"{TYPED}.fp64_contents", "WRONG_TYPE"),
    ),
    "typed FP16": (request("FP16", [0.5, 0.5], raw=False, holder="fp32_contents"), invalid(TYPED, "WRONG_TYPE")),
    "what the model refuses": (
        request("INT16", [datatypes.UNLUCKY], raw=True),
        invalid("inputs", "INVALID_VALUE"),
    ),
}


@pytest.mark.parametrize(("body", "refusal"), BAD.values(), ids=BAD)
def test_a_bad_element_is_refused_for_the_reason_that_the_oracle_names(target: Target, body: bytes, refusal: Refusal):
    expected = TensorOracle(target).infer(body)
    assert refusal in expected.whole
    assert answer(target, body).refusal == refusal


def test_elements_that_are_read_wrong_are_found_out(target: Target):
    body = request("FP32", [0.1, 0.2, 0.3], raw=True)
    expected, actual = TensorOracle(target).infer(body), answer(target, body)
    assert fault(expected, actual) == ""
    other = answer(target, request("FP32", [0.1, 0.2, 0.4], raw=True))
    assert "were sent" in fault(expected, other)


def test_the_fuzzer_draws_every_datatype_in_both_forms_and_every_kind_of_mistake(target: Target):
    oracle, reasons, forms = TensorOracle(target), Counter[str](), set[tuple[str, bool]]()
    for number in range(2000):
        body = tensors.infer(random.Random(number), target)
        asked, expected = pb.ModelInferRequest.FromString(body), oracle.infer(body)
        reasons.update(one.reason for one in expected.whole)
        if not expected.whole:
            forms |= {(given.datatype, bool(asked.raw_input_contents)) for given in asked.inputs}
    assert {"NOT_FINITE", "OUT_OF_RANGE", "WRONG_TYPE", "WRONG_SHAPE", "CONFLICT", "TOO_LONG"} <= set(reasons)
    assert forms == set(FORMS)
