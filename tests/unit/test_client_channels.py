"""A large request is made again as a small one is, and what is called on this machine is not called through a proxy."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import bare
import grpc
import pytest
from bare import Request, Response

from eagerly.aio import AsyncClient
from eagerly.client import CallError, Client

LARGE = "x" * 1_000_000


@pytest.fixture
def wavering() -> Iterator[tuple[str, list[int]]]:
    """The address of a server that refuses the first call for now, and the sizes of those that came."""
    came: list[int] = []

    def answer(request: Request, context: Any) -> Response:
        came.append(len(request.texts[0]))
        if len(came) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return Response(results=[bare.Result()])

    with bare.serving(answer) as address:
        yield address, came


def test_a_large_request_that_is_refused_for_now_is_made_again(wavering: tuple[str, list[int]]):
    address, came = wavering
    with Client(address) as client:
        assert client.analyze([LARGE])[0].error is None
    assert came == [len(LARGE)] * 2


def test_the_twin_makes_a_large_request_again_too(wavering: tuple[str, list[int]]):
    address, came = wavering

    async def ask() -> None:
        async with AsyncClient(address) as client:
            assert (await client.analyze([LARGE]))[0].error is None

    asyncio.run(ask())
    assert came == [len(LARGE)] * 2


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What listens where the environment says that a proxy is."""
    for name in ("grpc_proxy", "https_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.settimeout(5)
        yield listener


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_what_is_on_this_machine_is_called_without_a_proxy(proxy: socket.socket, host: str):
    with bare.serving() as address, Client(address.replace("localhost", host), 5, token="secret") as client:
        assert client.analyze(["fine"])[0].labels[0].label == "fine"
    proxy.setblocking(False)
    with pytest.raises(BlockingIOError):
        proxy.accept()


def test_what_is_elsewhere_is_called_through_the_proxy(proxy: socket.socket):
    with Client("endpoint.example:9000", 1) as client:
        with pytest.raises(CallError):
            client.analyze(["fine"])
        caller, _ = proxy.accept()
        with caller:
            assert caller.recv(64).startswith(b"CONNECT endpoint.example:9000")
