"""`eagerly serve`: models answer over gRPC until Ctrl-C."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import tyro

from eagerly import flags
from services.options import Options

if TYPE_CHECKING:
    from services.models import Stored


@dataclass(frozen=True)
class Serve(Options):
    """Serves the champions of tasks on one gRPC port."""

    services: tyro.conf.Positional[tuple[str, ...]] = ()
    """Tasks to serve, or folders of your own; none means all of eagerly's."""
    replicas: int = 1
    """Processes that hold the models and share the port."""
    threads: int = 0
    """CPU threads each model computes with; 0 shares this machine's cores among the replicas."""

    def __post_init__(self) -> None:
        """Raises ValueError for what is no task, or a number out of range."""
        from pipelines import tasks

        for word in self.services:
            tasks.find(word)
        if self.replicas < 1:
            raise ValueError(f"--replicas is {self.replicas}; the least allowed is 1")
        if self.threads < 0:
            raise ValueError(f"--threads is {self.threads}; it must be 0 or more")
        _options(self, self.port, self.metrics_port)


@dataclass(frozen=True)
class Running:
    """An endpoint that answers."""

    address: str
    """host:port of gRPC."""
    metrics: str
    """URL of the metrics."""
    metrics_folder: Path
    """Where the replicas of this node keep their figures."""
    models: "list[Stored]"
    """What it serves."""


def main(words: list[str]) -> int:
    """Runs `eagerly serve ...`. Raises ValueError with a sentence for everything the user can mend."""
    run(flags.parse(Serve, words, "eagerly serve"))
    return 0


def run(args: Serve) -> None:
    """Serves until Ctrl-C or SIGTERM, then drains."""
    began = time.monotonic()
    _stop_on_signals()
    with contextlib.suppress(KeyboardInterrupt), serving(args) as running:
        _stop_on_signals()  # once more: Ray has put a handler of its own in place
        for model in running.models:
            print(f"{model.service:<12} version {model.version}, run {model.run_id}, digest {model.digest[:12]}")
        print(f"gRPC         {running.address}")
        print(f"metrics      {running.metrics}")
        print(f"ready after {time.monotonic() - began:.1f} s; Ctrl-C stops", flush=True)
        try:
            threading.Event().wait()
        finally:
            print("draining", flush=True)


@contextlib.contextmanager
def serving(args: Serve, models: "list[Stored] | None" = None) -> Iterator[Running]:
    """Serves while the block runs, and drains at its end.

    Uses the Ray of this process or of RAY_ADDRESS where there is one; else starts one and stops it. The models are
    the registry's champions unless given. Raises ValueError when a port is in use or a model cannot be had.
    """
    from pipelines import tasks

    port = _probe(args.host, args.port, "--port")
    metrics_port = _probe(args.metrics_host, args.metrics_port, "--metrics-port")
    from services import hosting

    with contextlib.ExitStack() as stack:
        words = {tasks.find(word).name: word for word in args.services or tasks.TASKS}
        champions = stack.enter_context(hosting.Champions([*words.values()])) if models is None else None
        local = stack.enter_context(hosting.ray_running())
        found = models if champions is None else champions.wait()
        assert found is not None
        options = _options(args, port, metrics_port)
        folder = stack.enter_context(hosting.deployed(options, found, args.replicas, cpus=0 if local else 1))
        metrics = f"http://{hosting.address(args.metrics_host, metrics_port)}/metrics"
        yield Running(hosting.address(args.host, port), metrics, folder, found)


def _options(args: Serve, port: int, metrics_port: int) -> Options:
    """Takes the endpoint's part of the flags, with the ports that were found free."""
    threads = args.threads or max(1, (os.cpu_count() or 1) // args.replicas)
    given = {field.name: getattr(args, field.name) for field in fields(Options)}
    return Options(**{**given, "port": port, "metrics_port": metrics_port, "threads": threads})


def _probe(host: str, port: int, flag: str) -> int:
    """Finds out by a plain bind whether a port is free; a shared one would be taken beside a stranger silently.

    Returns the port, or a free one for 0. Raises ValueError when it is in use or cannot be bound.
    """
    if not 0 <= port <= 65_535:
        raise ValueError(f"{flag} is {port}; it must be 0 to 65535")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            return probe.getsockname()[1]
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{flag} {port} of {host} cannot be bound ({reason}); choose another with {flag}") from None


def _stop_on_signals() -> None:
    """Makes the first Ctrl-C or SIGTERM raise KeyboardInterrupt, and those that follow wait for the draining."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
