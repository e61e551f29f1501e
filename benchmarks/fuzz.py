"""Sends calls that no client would, and compares what comes of each with what an independent oracle says must.

    python -m benchmarks.fuzz --count 100000 --seed 0

Calls of the three typed services and of Open Inference are drawn over datatype x shape x encoding, and every third has
its bytes mutated. Beside eagerly's tasks stands one of a user's own, with an input of each datatype, which answers with
a checksum of what it was given. Call N depends on the seed and N alone. A call that ends in INTERNAL or UNKNOWN is a
fault whatever the oracle says. Raw results go to benchmarks/results/fuzz.json; the exit code is 1 when there is one.
"""

import argparse
import asyncio
import json
import math
import random
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from benchmarks.fuzzing import tensors, typed
from benchmarks.fuzzing.mutations import mutated
from benchmarks.fuzzing.oracle import MOST_BYTES, MOST_ITEMS, Oracle
from benchmarks.fuzzing.tensor_oracle import TensorOracle
from benchmarks.fuzzing.verdicts import Actual, Expected, compare, refusal_from, refusal_of
from benchmarks.target import Target, running
from eagerly.v1 import classifier_pb2, recommender_pb2, sentiment_pb2
from services.oip import open_inference_pb2

IN_FLIGHT = 32
MUTATED_SHARE = 1 / 3
MOST_KEPT = 100
"""Faults that are kept in full."""


@dataclass(frozen=True)
class Method:
    """One RPC: how its calls are made, judged and read."""

    path: str
    make: Callable[[random.Random, Target], bytes]
    judge: Callable[[bytes], Expected]
    response: Any


@dataclass
class Result:
    """What a run of the fuzzer found."""

    seed: int
    count: int
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    """How many calls and items ended how: `Classify WRONG_SHAPE`."""
    fault_count: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)


def methods(target: Target) -> list[Method]:
    """Lists the RPCs that are fuzzed."""
    judge = Oracle(target)
    return [
        Method("/eagerly.v1.Classifier/Classify", typed.classify, judge.classify, classifier_pb2.ClassifyResponse),
        Method("/eagerly.v1.Sentiment/Analyze", typed.analyze, judge.analyze, sentiment_pb2.AnalyzeResponse),
        Method(
            "/eagerly.v1.Recommender/Recommend", typed.recommend, judge.recommend, recommender_pb2.RecommendResponse
        ),
        Method(
            "/inference.GRPCInferenceService/ModelInfer",
            tensors.infer,
            TensorOracle(target).infer,
            open_inference_pb2.ModelInferResponse,
        ),
    ]


def drawn(seed: int, number: int, choices: list[Method], target: Target) -> tuple[Method, bytes]:
    """Makes call N of a seed."""
    draw = random.Random(f"{seed}/{number}")
    method = draw.choice(choices)
    body = method.make(draw, target)
    return method, mutated(body, draw) if draw.random() < MUTATED_SHARE else body


async def call(channel: aio.Channel, method: Method, body: bytes) -> Actual:
    """Makes a call and reads what came of it."""
    try:
        reply = await channel.unary_unary(method.path)(body, timeout=60)
    except grpc.RpcError as error:
        return Actual(refusal_from(error))
    response = method.response.FromString(reply)
    results = getattr(response, "results", [])
    return Actual(None, [refusal_of(one.status) if one.status.code else None for one in results], response)


def fault(expected: Expected, actual: Actual) -> str:
    """Says what is wrong with an outcome, the answer's values included; empty when nothing is."""
    seen = [actual.refusal, *actual.items]
    ours = [one for one in seen if one and one.code in ("INTERNAL", "UNKNOWN")]
    return f"{ours[0]}" if ours else compare(expected, actual) or _odd_values(expected, actual)


def _odd_values(expected: Expected, actual: Actual) -> str:
    """Looks at the labels, items and tensors of an answer."""
    for at, result in enumerate(getattr(actual.response, "results", [])):
        listed = result.items if hasattr(result, "items") else result.labels
        if bool(result.status.code) == bool(listed):
            return f"item {at} has status {result.status.code} and {len(listed)} entries"
        if expected.label_count and listed and len(listed) != expected.label_count:
            return f"item {at} has {len(listed)} labels; {expected.label_count} were asked for"
        if not all(math.isfinite(entry.score) for entry in listed):
            return f"item {at} has a score that is not finite"
    for at, output in enumerate(getattr(actual.response, "outputs", [])):
        if output.shape[0] < 1:
            return f"output {output.name} holds no items"
        if output.name == "checksum" and expected.checksums is not None:
            raw = actual.response.raw_output_contents
            seen = list(struct.unpack(f"<{len(raw[at]) // 8}q", raw[at]) if raw else output.contents.int64_contents)
            if seen != expected.checksums:
                return f"the elements that were read have the checksums {seen}; {expected.checksums} were sent"
    return ""


async def fuzz(target: Target, count: int, seed: int) -> Result:
    """Makes calls, several at a time, and judges each."""
    choices, result = methods(target), Result(seed, count)
    numbers, began = iter(range(count)), time.monotonic()

    async def one_after_the_other(channel: aio.Channel) -> None:
        for number in numbers:
            method, body = drawn(seed, number, choices, target)
            actual = await call(channel, method, body)
            _note(result, number, method, body, actual)

    async with aio.insecure_channel(target.address) as channel:
        await asyncio.gather(*(one_after_the_other(channel) for _ in range(min(IN_FLIGHT, count))))
    result.seconds = time.monotonic() - began
    return result


def _note(result: Result, number: int, method: Method, body: bytes, actual: Actual) -> None:
    name = method.path.rpartition("/")[2]
    for one in actual.items or [actual.refusal]:
        outcome = f"{name} {(one.reason or one.code) if one else 'OK'}"
        result.outcomes[outcome] = result.outcomes.get(outcome, 0) + 1
    problem = fault(method.judge(body), actual)
    if problem:
        result.fault_count += 1
        if len(result.faults) < MOST_KEPT:
            told = {"number": number, "method": method.path, "problem": problem, "body": body[:2000].hex()}
            result.faults.append(told)


def settings() -> dict[str, Any]:
    """How the server that is fuzzed must be set."""
    return {"max_items": MOST_ITEMS, "max_message_bytes": MOST_BYTES}


def main() -> int:
    """Fuzzes a server in a process of its own and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="calls")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with running(**settings()) as target:
        result = asyncio.run(fuzz(target, arguments.count, arguments.seed))
    for name, times in sorted(result.outcomes.items()):
        print(f"{name:<34} {times}")
    print(f"{result.count} calls, seed {result.seed}, {result.seconds:.0f} s: {result.fault_count} faults")
    for one in result.faults[:5]:
        print(f"call {one['number']} of {one['method']}: {one['problem'][:600]}", file=sys.stderr)
    kept = Path("benchmarks/results")
    kept.mkdir(exist_ok=True)
    (kept / "fuzz.json").write_text(json.dumps(asdict(result), indent=2))
    return int(bool(result.fault_count))


if __name__ == "__main__":
    sys.exit(main())
