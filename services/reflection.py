"""Server reflection in both its versions; where tokens are needed, any valid one opens it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services import door, errors, status
from services.rpc import parse
from services.security import Guard

NAMES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
"""The messages of v1 and v1alpha are the same on the wire."""


class Reflection:
    """Describes services, and reflection itself, to those who may know; for the event loop's thread."""

    def __init__(self, services: list[str], guard: Guard | None) -> None:
        """Takes the names of the services."""
        self._answer: Any = reflection.aio.ReflectionServicer([*services, *NAMES]).ServerReflectionInfo
        self._guard = guard
        self._closed = asyncio.Event()

    def close(self) -> None:
        """Ends the streams of callers; one that is kept open, as grpcui does, would else keep a server up."""
        self._closed.set()

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Offers both versions to a server."""
        handler = grpc.stream_stream_rpc_method_handler(self._guarded)
        return tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in NAMES)

    async def _guarded(self, bodies: AsyncIterator[bytes], context: door.Context) -> AsyncIterator[bytes]:
        try:
            if self._guard is not None:
                self._guard.authenticate(door.metadata(context))
            async for reply in self._answer(self._requests(bodies), context):
                yield reply.SerializeToString()
        except errors.ServiceError as error:
            await door.refuse(status.of(error), context)

    async def _requests(self, bodies: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Reads what is asked, until the caller has no more questions or close() is called."""
        closed = asyncio.ensure_future(self._closed.wait())
        body = None
        try:
            while True:
                body = asyncio.ensure_future(anext(bodies, None))
                await asyncio.wait((body, closed), return_when=asyncio.FIRST_COMPLETED)
                if not body.done() or (asked := body.result()) is None:
                    return
                yield parse(reflection_pb2.ServerReflectionRequest, asked)
        finally:
            closed.cancel()
            if body is not None:
                body.cancel()
