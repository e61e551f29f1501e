"""Two thousand calls that no client would send are answered as the contract says; a server that errs is found out."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc import aio

from benchmarks.fuzz import Result, fuzz, settings
from benchmarks.target import Target, running
from eagerly.v1 import sentiment_pb2

ANALYZE = "/eagerly.v1.Sentiment/Analyze"


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """The server that is fuzzed."""
    with running(**settings()) as server:
        yield server


class Faulty(grpc.GenericRpcHandler):
    """Passes every call on to a server, and changes the replies of Analyze."""

    def __init__(self, channel: aio.Channel, change: Callable[[sentiment_pb2.AnalyzeResponse], None]) -> None:
        self._channel, self._change = channel, change

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer(handler_call_details.method))

    def _answer(self, method: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def answer(body: bytes, context: Any) -> bytes:
            try:
                reply = await self._channel.unary_unary(method)(body)
            except aio.AioRpcError as error:
                await context.abort(error.code(), error.details(), tuple(error.trailing_metadata()))
                raise
            if method != ANALYZE:
                return reply
            response = sentiment_pb2.AnalyzeResponse.FromString(reply)
            self._change(response)
            return response.SerializeToString()

        return answer


def fuzzed_through(target: Target, change: Callable[[sentiment_pb2.AnalyzeResponse], None]) -> Result:
    """Fuzzes a faulty server before the real one."""

    async def run() -> Result:
        server = aio.server()
        async with aio.insecure_channel(target.address) as channel:
            server.add_generic_rpc_handlers((Faulty(channel, change),))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            result = await fuzz(replace(target, address=f"127.0.0.1:{port}"), 100, 0)
            await server.stop(None)
        return result

    return asyncio.run(run())


def nothing(response: sentiment_pb2.AnalyzeResponse) -> None:
    pass


def lose_a_result(response: sentiment_pb2.AnalyzeResponse) -> None:
    response.results.pop()


def answer_what_is_refused(response: sentiment_pb2.AnalyzeResponse) -> None:
    for result in response.results:
        result.ClearField("status")
        result.labels.add(label="positive", score=0.5)


def refuse_what_is_good(response: sentiment_pb2.AnalyzeResponse) -> None:
    for result in response.results:
        result.ClearField("labels")
        result.status.code = 3


def say_nan(response: sentiment_pb2.AnalyzeResponse) -> None:
    for result in response.results:
        for label in result.labels:
            label.score = float("nan")


def stumble(response: sentiment_pb2.AnalyzeResponse) -> None:
    raise LookupError("planted")


def test_two_thousand_odd_calls_end_as_the_contract_says(target: Target):
    result = asyncio.run(fuzz(target, 2000, 0))
    assert (result.fault_count, result.faults) == (0, [])
    for method in ("Classify", "Analyze", "Recommend", "ModelInfer"):
        assert result.outcomes[f"{method} OK"] > 10
        assert sum(times for name, times in result.outcomes.items() if name.startswith(method)) > 400
    assert result.outcomes["ModelInfer NOT_FINITE"] > 0


@pytest.mark.parametrize(
    "change",
    [lose_a_result, answer_what_is_refused, refuse_what_is_good, say_nan, stumble],
    ids=lambda one: one.__name__,
)
def test_a_server_that_errs_is_found_out(target: Target, change: Callable[[sentiment_pb2.AnalyzeResponse], None]):
    result = fuzzed_through(target, change)
    assert result.fault_count > 0
    assert {fault["method"] for fault in result.faults} == {ANALYZE}


def test_a_server_that_passes_on_what_is_right_has_no_faults(target: Target):
    assert fuzzed_through(target, nothing).faults == []
