"""The gRPC server of an endpoint: its services, health, reflection and metrics on ports of its own. Knows no Ray."""

import asyncio
from pathlib import Path

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services.door import Keepers
from services.exposition import MetricsServer
from services.metrics import Metrics
from services.models import Loaded
from services.options import Options
from services.rpc import Rpc
from services.slots import Slot

NOTICE_S = 0.1
"""Seconds between saying NOT_SERVING and closing the port, for those who watch health."""
REFLECTION = "grpc.reflection.v1.ServerReflection"


class Server:
    """Serves models that are in memory; all methods are for the event loop's thread."""

    def __init__(self, options: Options, models: list[Loaded], metrics_folder: Path) -> None:
        """Takes the models and prepares the server; nothing listens before start()."""
        self._options = options
        self._figures = Metrics(metrics_folder)
        self._metrics_folder = metrics_folder
        self._metrics_server: MetricsServer | None = None
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self.slots = {loaded.name: Slot(loaded, options, self._figures) for loaded in models}
        keepers = Keepers(self._figures)
        self._rpcs = [Rpc(one.service, self.slots[one.name], options, keepers) for one in models if one.service]
        self._server = aio.server(options=_arguments(options))
        self._register()
        self.port = options.port

    @property
    def metrics_port(self) -> int:
        """The metrics port that was bound."""
        assert self._metrics_server is not None, "not started"
        return self._metrics_server.port

    @property
    def waiting_count(self) -> int:
        """Items waiting for a model."""
        return sum(slot.waiting_count for slot in self.slots.values())

    async def start(self) -> None:
        """Warms the models up, then listens, then says SERVING."""
        for name in self._names():
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        for slot in self.slots.values():
            await slot.start()
        options = self._options
        self._metrics_server = MetricsServer(options.metrics_host, options.metrics_port, self._metrics_folder)
        self.port = self._server.add_insecure_port(address(options.host, options.port))
        await self._server.start()
        for name in self._names():
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Says NOT_SERVING, takes no new connections, finishes the calls in flight, and frees the ports."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(NOTICE_S)
        await self._server.stop(self._options.drain_s)
        for slot in self.slots.values():
            await slot.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        await asyncio.sleep(0)  # lets the last calls be counted
        self._figures.close()

    def check(self) -> None:
        """Raises RuntimeError when a model's thread has died."""
        for slot in self.slots.values():
            slot.check()

    def _names(self) -> list[str]:
        """The names that health knows: the whole endpoint's, which is empty, and each service's."""
        return ["", *(rpc.service.descriptor.full_name for rpc in self._rpcs)]

    def _register(self) -> None:
        """Adds the services, health, and reflection in both its versions."""
        for rpc in self._rpcs:
            handler = grpc.unary_unary_rpc_method_handler(rpc.door.answer)
            self._server.add_generic_rpc_handlers(
                (
                    grpc.method_handlers_generic_handler(
                        rpc.service.descriptor.full_name, {rpc.service.method.name: handler}
                    ),
                )
            )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*self._names()[1:], health.SERVICE_NAME, reflection.SERVICE_NAME, REFLECTION]
        reflection.enable_server_reflection(names, self._server)
        self._server.add_generic_rpc_handlers((_reflection_v1(names),))


def address(host: str, port: int) -> str:
    """Joins host and port as gRPC wants them, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reflection_v1(names: list[str]) -> grpc.GenericRpcHandler:
    """Offers reflection under its final name too; its messages are the same on the wire as v1alpha's."""
    servicer = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(REFLECTION, {"ServerReflectionInfo": handler})


def _arguments(options: Options) -> list[tuple[str, int]]:
    """gRPC's own settings: a port that replicas share, caps, keepalive, and the age of connections."""
    arguments = [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
    if options.max_connection_age_s:
        arguments.append(("grpc.max_connection_age_ms", round(options.max_connection_age_s * 1000)))
        arguments.append(("grpc.max_connection_age_grace_ms", round(options.drain_s * 1000)))
    return arguments
