"""What refusals tell: never a path, an address, a process id, a traceback, or what a model had in its exception."""

import concurrent.futures
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import endpoints
import grpc
import pytest

from eagerly.v1 import sentiment_pb2
from services import tokens

TYPED = "/eagerly.v1.Sentiment/Analyze"
LEAKS = {
    "a path": r"(?<![\w.\[])/\w+|\.py\b|site-packages",
    "an address": r"\d+\.\d+\.\d+\.\d+|\[?::1\]?|localhost|\b0x[0-9a-f]{6,}",
    "a process id": rf"\b{os.getpid()}\b",
    "a host": rf"\b{re.escape(socket.gethostname())}\b",
    "a traceback": r"Traceback|File \"|line \d+|Error\(|Exception\(|<class|object at",
    "a secret": r"hunter2",
}


class Secretive(endpoints.Gate):
    """A model whose exceptions say too much."""

    def predict(self, texts: list[str]) -> list[Any]:
        secret = f"hunter2 at 10.1.2.3:4711 in {__file__}, process {os.getpid()}"
        if "runtime" in texts:
            raise RuntimeError(secret)
        if "value" in texts:
            raise ValueError(secret)
        if "key" in texts:
            raise KeyError(secret)
        if "file" in texts:
            Path(__file__).with_name("hunter2").read_text()
        if "assert" in texts:
            raise AssertionError(secret)
        return super().predict(texts)


@pytest.fixture(scope="module")
def bearers() -> dict[str, tuple[str, str]]:
    return {name: tokens.issue(name, [granted]) for name, granted in (("all", "*"), ("none", "eagerly.v1.Other/*"))}


@pytest.fixture(scope="module")
def model() -> Secretive:
    return Secretive()


@pytest.fixture(scope="module")
def channel(
    tmp_path_factory: pytest.TempPathFactory, model: Secretive, bearers: dict[str, tuple[str, str]]
) -> Iterator[grpc.Channel]:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "tokens").write_text("".join(line for _, line in bearers.values()))
    options = {"tokens": folder / "tokens", "max_items": 4, "max_waiting": 4, "max_message_bytes": 10_000}
    with (
        endpoints.serving([endpoints.loaded("sentiment", model)], folder / "metrics", **options) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        yield opened


def texts(*given: str) -> bytes:
    return sentiment_pb2.AnalyzeRequest(texts=given).SerializeToString()


def refusal(channel: grpc.Channel, method: str, body: bytes, token: str, timeout: float = 5) -> tuple[str, str]:
    """The code of a call that is refused, and everything that it is told."""
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(method)(body, timeout=timeout, metadata=(("authorization", f"Bearer {token}"),))
    call: Any = refused.value
    trailing = [f"{key}={value!r}" for key, value in call.trailing_metadata() or ()]
    return call.code().name, "\n".join([str(call.details()), *trailing])


def leaks(told: str) -> list[str]:
    return [f"{what}: {found.group()} in {told}" for what, odd in LEAKS.items() if (found := re.search(odd, told))]


@pytest.mark.parametrize(
    ("method", "body", "code"),
    [
        (TYPED, b"\xff\xff", "INVALID_ARGUMENT"),
        (TYPED, b"\x0a\x01\xff", "INVALID_ARGUMENT"),
        (TYPED, texts(), "INVALID_ARGUMENT"),
        (TYPED, texts(*"12345"), "INVALID_ARGUMENT"),
        (TYPED, b"\0" * 20_000, "RESOURCE_EXHAUSTED"),
        (TYPED, texts("runtime"), "INTERNAL"),
        (TYPED, texts("value"), "INTERNAL"),
        (TYPED, texts("key"), "INTERNAL"),
        (TYPED, texts("file"), "INTERNAL"),
        (TYPED, texts("assert"), "INTERNAL"),
        ("/eagerly.v1.Sentiment/Missing", b"", "UNIMPLEMENTED"),
        ("/../../etc/passwd", b"", "UNIMPLEMENTED"),
        ("/inference.GRPCInferenceService/ModelMetadata", b"\x0a\x05other", "NOT_FOUND"),
        ("/inference.GRPCInferenceService/ModelInfer", b"\xff\xff", "INVALID_ARGUMENT"),
        ("/grpc.health.v1.Health/Check", b"\x0a\x05other", "NOT_FOUND"),
        ("/grpc.health.v1.Health/Check", b"\xff\xff", ""),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"\xff\xff", ""),
    ],
)
def test_a_refusal_tells_nothing_of_the_machine_or_the_model(
    channel: grpc.Channel, bearers: dict[str, tuple[str, str]], method: str, body: bytes, code: str
):
    got, told = refusal(channel, method, body, bearers["all"][0])
    assert got == code or not code
    assert leaks(told) == []


@pytest.mark.parametrize(("bearer", "code"), [("none", "PERMISSION_DENIED"), ("", "UNAUTHENTICATED")])
def test_a_caller_who_may_not_is_told_nothing_either(
    channel: grpc.Channel, bearers: dict[str, tuple[str, str]], bearer: str, code: str
):
    token = bearers[bearer][0] if bearer else "hunter2"
    got, told = refusal(channel, TYPED, texts("fine"), token)
    assert got == code
    assert leaks(told) == []
    assert token not in told


def test_a_full_queue_and_a_late_call_tell_nothing_either(
    channel: grpc.Channel, model: Secretive, bearers: dict[str, tuple[str, str]]
):
    token = bearers["all"][0]
    header = (("authorization", f"Bearer {token}"),)
    method = channel.unary_unary(TYPED)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        model.computing.clear()
        model.open.clear()
        held = pool.submit(method, texts("held"), timeout=10, metadata=header)
        model.computing.wait(5)
        late, told_late = refusal(channel, TYPED, texts("late"), token, timeout=0.2)
        waiting = method.future(texts(*"abcd"), timeout=10, metadata=header)
        full, told_full = refusal(channel, TYPED, texts("one too many"), token)
        model.open.set()
        held.result(10)
        waiting.result(10)
    assert (late, full) == ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    assert leaks(told_late) == leaks(told_full) == []
