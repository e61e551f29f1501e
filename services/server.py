"""The gRPC server of an endpoint: its services, health, reflection and metrics on ports of its own. Knows no Ray."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from grpc import aio

from services import health, metrics, operations, reflection, scaling, security, transport
from services.door import Doors, Keepers
from services.expiry import Expiry
from services.exposition import MetricsServer
from services.memory import Memory
from services.metrics import Metrics
from services.models import Loaded
from services.oip import inference
from services.options import Options
from services.probe import Probe
from services.rpc import Rpc
from services.slots import Slot

FAREWELL_S = 0.1
"""Seconds between telling those who watch health that the endpoint goes and closing the port."""


class Server:
    """Serves models that are in memory; all methods are for the event loop's thread."""

    def __init__(self, options: Options, models: list[Loaded], metrics_folder: Path) -> None:
        """Takes the models and prepares the server; nothing listens before start()."""
        self._options = options
        self._figures = Metrics(metrics_folder)
        self._metrics_folder = metrics_folder
        self._metrics_server: MetricsServer | None = None
        self._health = health.Health()
        self.registry_up = self._figures.value(metrics.REGISTRY_UP)
        self.registry_up.set(1)
        self.slots = {loaded.name: Slot(loaded, options, self._figures) for loaded in models}
        self._security = security.of(options)
        self._keepers = keepers = Keepers.of(options, self._figures, self._security.guard)
        self._rpcs = [Rpc(one.service, self.slots[one.name], options, keepers) for one in models if one.service]
        self._open_inference = inference.OpenInference(self.slots, options, keepers)
        operations.free_abandoned()
        self._reflection = reflection.Reflection([*self._names()[1:], health.NAME], self._security.guard)
        self._server = aio.server(options=transport.arguments(options))
        self._register()
        self._probe: Probe | None = None
        if options.probe_port is not None:
            self._probe = Probe(self._health, address(options.probe_host, options.probe_port))
        self._memory = Memory()
        self._thread = scaling.Thread()
        self._expiry = None
        if self._security.certificate_end is not None:
            self._expiry = Expiry(self._security.certificate_end, self._figures.value(metrics.CERTIFICATE_END))
        self.port = options.port

    @property
    def metrics_port(self) -> int:
        """The metrics port that was bound."""
        assert self._metrics_server is not None, "not started"
        return self._metrics_server.port

    @property
    def probe_port(self) -> int:
        """The probe port that was bound."""
        assert self._probe is not None, "there is none"
        return self._probe.port

    @property
    def waiting_count(self) -> int:
        """Items waiting for a model."""
        return sum(slot.waiting_count for slot in self.slots.values())

    def load(self) -> dict[str, float]:
        """Reports the longest wait, the greatest work and so on, by their names in scaling.py.

        The event loop counts among what is busy: with small models it is what calls wait for.
        """
        waits_s, busy, refused = zip(*(slot.load() for slot in self.slots.values()), strict=True)
        loop = self._thread.read(sum(slot.take_idle() for slot in self.slots.values()))
        return {
            scaling.QUEUE_S: max(waits_s),
            scaling.BUSY: max(*busy, loop),
            scaling.LOOP: loop,
            scaling.REFUSED: max(refused),
        }

    async def start(self) -> None:
        """Warms the models up, then listens, then says SERVING.

        Raises ValueError for a port that cannot be bound here, naming its flag.
        """
        transport.allow_descriptors()
        self._health.set(self._names(), health.NOT_SERVING)
        for slot in self.slots.values():
            await slot.start()
        options = self._options
        with _taking("--metrics-port", options.metrics_host, options.metrics_port):
            self._metrics_server = MetricsServer(options.metrics_host, options.metrics_port, self._metrics_folder)
        with _taking("--port", options.host, options.port):
            self.port = self._bind(address(options.host, options.port))
        await self._server.start()
        if self._probe is not None:
            with _taking("--probe-port", options.probe_host, options.probe_port or 0):
                await self._probe.start()
        self._health.set(self._names(), health.SERVING)
        for slot in self.slots.values():
            slot.replicas.set(1)
        self._memory.start()
        if self._expiry is not None:
            self._expiry.start()

    def retire(self) -> None:
        """Says NOT_SERVING for good, to those who ask; calls and connections are taken as ever."""
        self._open_inference.is_draining = True
        self._health.announce(self._names())
        for slot in self.slots.values():
            slot.replicas.set(0)

    async def drain(self) -> None:
        """Gives notice, says NOT_SERVING to all, then finishes the calls in flight and frees the ports."""
        self.retire()
        await asyncio.sleep(self._options.notice_s)
        self._health.set(self._names(), health.NOT_SERVING)
        await asyncio.sleep(FAREWELL_S)
        self._health.close()
        self._reflection.close()
        await self._server.stop(self._options.drain_s)
        await self._memory.close()
        if self._expiry is not None:
            await self._expiry.close()
        for slot in self.slots.values():
            await slot.close()
        if self._probe is not None:
            await self._probe.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        await asyncio.sleep(0)  # lets the last calls be counted
        await asyncio.to_thread(self._keepers.close)
        self._figures.close()

    def mark(self, task: str, is_up: bool) -> None:
        """Says whether a task's model can answer, in health as by Open Inference.

        The whole endpoint serves while any of them can.
        """
        if self._open_inference.is_draining:
            return
        away = self._open_inference.away
        (away.discard if is_up else away.add)(task)
        names = [rpc.service.descriptor.full_name for rpc in self._rpcs if rpc.service.name == task]
        self._health.set(names, health.SERVING if is_up else health.NOT_SERVING)
        any_up = self._open_inference.ready
        self._health.set(["", inference.SERVICE], health.SERVING if any_up else health.NOT_SERVING)

    def want(self, replica_count: int) -> None:
        """Notes how many replicas there should be, this one included."""
        for slot in self.slots.values():
            slot.wanted.set(replica_count)

    def check(self) -> None:
        """Raises RuntimeError when a model's thread has died."""
        for slot in self.slots.values():
            slot.check()

    def _bind(self, place: str) -> int:
        """Takes the gRPC port, with TLS where there is a certificate; returns its number."""
        credentials = self._security.credentials
        if credentials is None:
            return self._server.add_insecure_port(place)
        return self._server.add_secure_port(place, credentials)

    def _names(self) -> list[str]:
        """The names that health knows: the whole endpoint's, which is empty, and each service's."""
        return ["", inference.SERVICE, *(rpc.service.descriptor.full_name for rpc in self._rpcs)]

    def _register(self) -> None:
        """Adds the services, health, and reflection in both its versions."""
        typed = {rpc.door.path: rpc.door.answer for rpc in self._rpcs}
        self._server.add_generic_rpc_handlers((Doors(typed | self._open_inference.answers()),))
        self._server.add_generic_rpc_handlers((self._health.handler(),))
        if self._options.reflection:
            self._server.add_generic_rpc_handlers(self._reflection.handlers())


@contextlib.contextmanager
def _taking(flag: str, host: str, port: int) -> Iterator[None]:
    """Names the flag and the machine where a port cannot be bound, as a ValueError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        unsaid = "in use, or not an address of this machine"  # gRPC does not say which
        reason = error.strerror or str(error) if isinstance(error, OSError) else unsaid
        where = f"{flag} {port} of {host} cannot be bound on {socket.gethostname()}"
        raise ValueError(f"{where} ({reason}); choose another with {flag}") from None


def address(host: str, port: int) -> str:
    """Joins host and port as gRPC wants them, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
