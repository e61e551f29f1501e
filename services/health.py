"""`grpc.health.v1`, which needs no token: on the gRPC port, and in the clear on the probe port.

grpc_health's own servicer tells and logs Python's words for malformed requests, and writes to a watcher while it holds
the lock that setting a state needs, so that one watcher who does not read keeps an endpoint from draining.
"""

import asyncio
from collections.abc import AsyncIterator

import grpc
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health, health_pb2

from services import door, errors, status
from services.rpc import parse

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAME = health.SERVICE_NAME
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_NOT_FOUND = status_pb2.Status(code=code_pb2.NOT_FOUND, message="health knows no such service")


class Health:
    """The state of each service, for those who ask and those who watch; for the event loop's thread."""

    def __init__(self) -> None:
        """Begins with no service."""
        self._states: dict[str, health_pb2.HealthCheckResponse.ServingStatus] = {}
        self._watched = dict(self._states)
        self._changed = asyncio.Event()
        self._closed = False

    def set(self, names: list[str], state: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        """Sets the state of services and tells watchers."""
        self._states.update(dict.fromkeys(names, state))
        self._watched.update(self._states)
        self._changed.set()
        self._changed = asyncio.Event()

    def announce(self, names: list[str]) -> None:
        """Says NOT_SERVING to those who ask, such as probes, and not yet to watchers.

        Watchers are clients, who would then call no more over connections that still serve them.
        """
        self._states.update(dict.fromkeys(names, NOT_SERVING))

    def close(self) -> None:
        """Ends the calls of watchers once they are told the last state; a watcher would else keep a server up."""
        self._closed = True
        self._changed.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Offers Check and Watch to a server; several may share one state."""
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    async def _check(self, body: bytes, context: door.Context) -> bytes:
        state = self._states.get(await _name(body, context))
        if state is None:
            return await door.refuse(_NOT_FOUND, context)
        return _reply(state)

    async def _watch(self, body: bytes, context: door.Context) -> AsyncIterator[bytes]:
        name, told = await _name(body, context), None
        while True:
            changed, state = self._changed, self._watched.get(name, _UNKNOWN)
            if state != told:
                told = state
                yield _reply(state)
            if self._closed:
                return
            await changed.wait()


async def _name(body: bytes, context: door.Context) -> str:
    """Reads which service is asked for; ends the call when the request is malformed."""
    try:
        return parse(health_pb2.HealthCheckRequest, body).service
    except errors.ServiceError as error:
        await door.refuse(status.of(error), context)
        raise


def _reply(state: health_pb2.HealthCheckResponse.ServingStatus) -> bytes:
    return health_pb2.HealthCheckResponse(status=state).SerializeToString()
