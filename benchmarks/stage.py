"""An endpoint on Ray with all that happens to it in a ledger: deaths, updates, swaps, outages, scaling."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import swap
from benchmarks.registry_server import MODES, Registry
from eagerly.commands.serve import Running, Serve, serving
from services.metrics import alive_pids
from services.options import Options
from services.resources import Hardware
from services.scaling import Scaling

PATIENCE_S = 120.0
"""The longest that an event may take."""
VERSIONS = (1, 2, 3)


@dataclass(frozen=True)
class Event:
    """Something that happened; times are seconds of the machine's monotonic clock."""

    kind: str
    detail: str
    began: float
    ended: float
    """When the full number of replicas served again, or all of them had taken up what was new."""


class Stage:
    """Makes things happen to an endpoint that runs, and waits each time until it is whole again."""

    def __init__(self, running: Running, registry: Registry, replicas: int) -> None:
        """Takes an endpoint that has so many replicas and follows this registry."""
        from services import hosting

        self._running, self._registry, self._store = running, registry, hosting.store()
        host, port = running.address.rsplit(":", 1)
        metrics_port = int(running.metrics.rsplit(":", 1)[1].partition("/")[0])
        self._options = Options(host=host, port=int(port), metrics_port=metrics_port)
        self.replicas = replicas
        self.events: list[Event] = []

    @property
    def address(self) -> str:
        """host:port of the endpoint."""
        return self._running.address

    def serving_pids(self) -> set[int]:
        """Finds the replicas that listen on the port."""
        return {pid for pid in alive_pids(self._running.metrics_folder) if _listens(pid, self._options.port)}

    def settle(self) -> None:
        """Returns when the full number of replicas serve, and none besides; raises ValueError when that takes long."""

        def whole() -> bool:
            alive = alive_pids(self._running.metrics_folder)
            return len(alive) == self.replicas and self.serving_pids() == alive

        self._await(whole, f"{self.replicas} replicas to serve")

    def kill(self, draw: random.Random) -> None:
        """Kills a replica, and waits until another serves in its place."""
        victim = draw.choice(sorted(self.serving_pids()))
        with self._event("kill", f"1 of {self.replicas} replicas"):
            os.kill(victim, signal.SIGKILL)
            self._await(lambda: victim not in self.serving_pids(), f"replica {victim} to be dead")
            self.settle()

    def update(self, draw: random.Random) -> None:
        """Rolls to the same endpoint anew."""
        with self._event("update", f"{self.replicas} replicas"):
            self._deploy(self.replicas)

    def scale(self, replicas: int) -> None:
        """Rolls to another number of replicas."""
        with self._event("scaling", f"{self.replicas} to {replicas} replicas"):
            self._deploy(replicas)

    def swap(self, draw: random.Random) -> None:
        """Moves the alias to another version, and waits until every replica answers with it."""
        champions = self._registry.champions
        version = draw.choice([one for one in VERSIONS if one != champions["classifier"]])
        expected = swap.swapped(self._running) + self.replicas
        with self._event("swap", f"version {champions['classifier']} to {version}"):
            champions["classifier"] = version
            self._await(lambda: swap.swapped(self._running) >= expected, f"replicas to take up version {version}")

    def outage(self, draw: random.Random, meanwhile: Callable[[], None] | None = None) -> None:
        """Takes the registry away, in one of its ways, until that was noticed and something happened meanwhile."""
        mode = draw.choice(MODES)
        with self._event("outage", f"the registry {mode}"):
            self._registry.be(mode)
            self._await(lambda: not self._store.state().up, f"the registry's absence ({mode}) to be noticed")
            if meanwhile:
                meanwhile()
            self._registry.be("")
            self._await(lambda: self._store.state().up, "the registry's return to be noticed")

    def _deploy(self, replicas: int) -> None:
        from ray import serve

        from services import endpoint

        options, folder = self._options, str(self._running.metrics_folder)
        hardware = Hardware(Scaling(replicas))
        app = endpoint.application(options, self._running.models, folder, hardware, self._store)
        serve.run(app, name=f"eagerly-{options.port}", route_prefix=None)
        self.replicas = replicas
        self.settle()

    @contextlib.contextmanager
    def _event(self, kind: str, detail: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.events.append(Event(kind, detail, began, time.monotonic()))

    def _await(self, met: Callable[[], bool], what: str) -> None:
        ends = time.monotonic() + PATIENCE_S
        while not met():
            if time.monotonic() > ends:
                raise ValueError(f"waited {PATIENCE_S:.0f} s for {what}, in vain")
            time.sleep(0.05)


@contextlib.contextmanager
def staged(folder: Path, replicas: int = 2) -> Iterator[tuple[Stage, dict[str, str]]]:
    """Serves a classifier from a registry of its own while the block runs; yields also each version's digest.

    The registry's address and the store's folder stay in this process's environment until the end.
    """
    from pipelines import artifact

    registry, digests = Registry(), {}
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "EAGERLY_HOME")}
    os.environ |= {"MLFLOW_TRACKING_URI": registry.uri, "EAGERLY_HOME": str(folder / "home")}
    try:
        for version in reversed(VERSIONS):
            model = folder / f"model-{version}"
            digests[str(version)] = artifact.write(model, "classifier", swap.model(version).save)
            registry.register("classifier", version, model, digests[str(version)])
        args = Serve(services=("classifier",), port=0, metrics_port=0, replicas=replicas, threads=1)
        with serving(args) as running:
            stage = Stage(running, registry, replicas)
            stage.settle()
            yield stage, digests
    finally:
        registry.close()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {name: value} if value is not None else {}


def _listens(pid: int, port: int) -> bool:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)
