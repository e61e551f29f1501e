"""The probe port: health in the clear and nothing else, because Kubernetes' gRPC probes speak no TLS."""

from grpc import aio

from services.health import Health

_ARGUMENTS = [
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", 4096),
    ("grpc.max_metadata_size", 4096),
    ("grpc.max_concurrent_streams", 16),
]


class Probe:
    """A second server beside the endpoint's own, with the same state of health."""

    def __init__(self, health: Health, address: str) -> None:
        """Takes the endpoint's health; binds at start()."""
        self._server = aio.server(options=_ARGUMENTS)
        self._server.add_generic_rpc_handlers((health.handler(),))
        self._address = address
        self.port = 0

    async def start(self) -> None:
        """Listens."""
        self.port = self._server.add_insecure_port(self._address)
        await self._server.start()

    async def close(self) -> None:
        """Ends all probes."""
        await self._server.stop(None)
