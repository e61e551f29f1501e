"""Server reflection in both its versions; where tokens are needed, any valid one opens it."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services import door, errors, status
from services.rpc import parse
from services.security import Guard

NAMES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
"""The messages of v1 and v1alpha are the same on the wire."""


def handlers(services: list[str], guard: Guard | None) -> tuple[grpc.GenericRpcHandler, ...]:
    """Describes services, and reflection itself, to those who may know."""
    answer: Any = reflection.aio.ReflectionServicer([*services, *NAMES]).ServerReflectionInfo

    async def guarded(bodies: AsyncIterator[bytes], context: door.Context) -> AsyncIterator[bytes]:
        try:
            if guard is not None:
                guard.authenticate(door.metadata(context))
            async for reply in answer(_requests(bodies), context):
                yield reply.SerializeToString()
        except errors.ServiceError as error:
            await door.refuse(status.of(error), context)

    handler = grpc.stream_stream_rpc_method_handler(guarded)
    return tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in NAMES)


async def _requests(bodies: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for body in bodies:
        yield parse(reflection_pb2.ServerReflectionRequest, body)
