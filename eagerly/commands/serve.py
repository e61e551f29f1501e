"""`eagerly serve`: models answer over gRPC until Ctrl-C."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import tyro

from eagerly import flags, steps
from eagerly.commands.predict import DEFAULT_ADDRESS
from services.options import Options
from services.resources import Hardware, Resources
from services.scaling import Scaling

if TYPE_CHECKING:
    from services.models import Stored

Part = TypeVar("Part", Options, Scaling, Resources)


@dataclass(frozen=True)
class Serve(Options, Scaling, Resources):
    """Serves the champions of tasks on one gRPC port."""

    services: tyro.conf.Positional[tuple[str, ...]] = ()
    """Tasks to serve, or folders of your own; none means all of eagerly's."""
    apart: tuple[str, ...] = ()
    """Tasks whose network is computed in processes of its own, such as sentiment, or sentiment=2 to split it in two."""
    threads: int = 0
    """CPU threads each model computes with; 0 shares this machine's cores among the replicas."""

    def __post_init__(self) -> None:
        """Raises ValueError for what is no task, or a number out of range."""
        from pipelines import tasks

        for word in self.services:
            tasks.find(word)
        if self.threads < 0:
            raise ValueError(f"--threads is {self.threads}; it must be 0 or more")
        _options(self)
        _part(self, Scaling)
        _part(self, Resources)
        _apart(self)


@dataclass(frozen=True)
class Running:
    """An endpoint that answers."""

    address: str
    """host:port of gRPC."""
    metrics: str
    """URL of the metrics."""
    probe: str | None
    """host:port of the probe port, where there is one."""
    metrics_folder: Path
    """Where the replicas of this node keep their figures."""
    models: "list[Stored]"
    """What it serves."""
    notes: tuple[str, ...] = ()
    """Why something else is served than the champions."""


def main(words: list[str]) -> int:
    """Runs `eagerly serve ...`. Raises ValueError with a sentence for everything the user can mend."""
    run(flags.parse(Serve, words, "eagerly serve"))
    return 0


def run(args: Serve) -> None:
    """Serves until Ctrl-C or SIGTERM, then drains."""
    from services import metrics

    began = time.monotonic()
    _stop_on_signals()
    with contextlib.suppress(KeyboardInterrupt), serving(args) as running:
        _stop_on_signals()  # once more: Ray has put a handler of its own in place
        for model in running.models:
            print(f"{model.service:<12} version {model.version}, run {model.run_id}, digest {model.digest[:12]}")
        for note in running.notes:
            print(note)
        for service, names in sorted(metrics.paths(running.metrics_folder).items()):
            print(f"{service:<12} runs {' and '.join(names)}")
        print(f"gRPC         {running.address}")
        print(f"metrics      {running.metrics}")
        if running.probe:
            print(f"probes       {running.probe}")
        steps.show(*_next(args, running), width=12)
        print(f"ready after {time.monotonic() - began:.1f} s; Ctrl-C stops", flush=True)
        try:
            threading.Event().wait()
        finally:
            print("draining", flush=True)


def _next(args: Serve, running: Running) -> list[str]:
    """Gives a call to copy, where anybody may make it and its input needs no file, and where the figures are."""
    is_open = args.tls_cert is None and args.tokens is None and args.jwks is None
    is_known = is_open and any(model.service == "sentiment" for model in running.models)
    place = "" if running.address == DEFAULT_ADDRESS else f" --address {running.address}"
    call = [f'eagerly predict sentiment "What a film!"{place}'] if is_known else []
    return [*call, f"curl {running.metrics}"]


@contextlib.contextmanager
def serving(args: Serve, models: "list[Stored] | None" = None) -> Iterator[Running]:
    """Serves while the block runs, and drains at its end.

    Uses the Ray of this process or of RAY_ADDRESS where there is one; else starts one and stops it. The models are
    the registry's champions unless given. Raises ValueError when a port is in use or a model cannot be had.
    """
    from pipelines import tasks
    from services import hosting, security

    options = _free(_options(args))
    security.of(options)  # here, because a replica would say only later what is wrong with a file

    with contextlib.ExitStack() as stack:
        words = {tasks.find(word).name: word for word in args.services or tasks.TASKS}
        store = hosting.store() if models is None else None
        champions = stack.enter_context(hosting.Champions([*words.values()], store)) if store else None
        if champions:
            champions.check()
        local = stack.enter_context(hosting.ray_running())
        found, notes = champions.wait() if champions else (models or [], [])
        hardware = Hardware(_part(args, Scaling), _part(args, Resources), 0 if local else 1, _apart(args))
        folder = stack.enter_context(hosting.deployed(options, found, hardware, store))
        if store and local:  # a replica may have refused a champion for the one before
            found = [replace(store.good(one.service) or one, task=one.task) for one in found]
        metrics = f"http://{hosting.address(options.metrics_host, options.metrics_port)}/metrics"
        probe = options.probe_port and hosting.address(options.probe_host, options.probe_port)
        yield Running(hosting.address(options.host, options.port), metrics, probe or None, folder, found, tuple(notes))


def _options(args: Serve) -> Options:
    """Takes the endpoint's part of the flags; files by their absolute paths, for replicas that run elsewhere."""
    given = {field.name: getattr(args, field.name) for field in fields(Options)}
    files = {name: value.absolute() for name, value in given.items() if isinstance(value, Path)}
    threads = args.threads or max(1, (os.cpu_count() or 1) // max(1, args.replicas, args.max_replicas))
    return Options(**{**given, **files, "threads": threads})


def _part(args: Serve, kind: type[Part]) -> Part:
    """Takes the flags of one of the parts that `Serve` is made of."""
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def _apart(args: Serve) -> dict[str, int]:
    """Reads --apart; raises ValueError for what is not served, or no number."""
    from pipelines import tasks

    served = [tasks.find(word).name for word in args.services or tasks.TASKS]
    found = {}
    for entry in args.apart:
        task, equals, count = entry.partition("=")
        if task not in served:
            raise ValueError(f"--apart {entry}: {task!r} is not served; it must be one of {', '.join(served)}")
        if equals and not (count.isascii() and count.isdigit() and int(count)):
            raise ValueError(f"--apart {entry}: {count!r} is no number of processes; give {task} or {task}=2")
        found[task] = int(count or 1)
    return found


def _free(options: Options) -> Options:
    """Finds every port free, or takes a free one for 0 that is none of those given."""
    from services import ports

    given = {options.port, options.metrics_port, options.probe_port}

    def find(host: str, port: int, flag: str) -> int:
        while (found := ports.find(host, port, flag)) in given - {port}:
            pass
        return found

    port = find(options.host, options.port, "--port")
    metrics_port = find(options.metrics_host, options.metrics_port, "--metrics-port")
    probe_port = options.probe_port
    if probe_port is not None:
        probe_port = find(options.probe_host, probe_port, "--probe-port")
    return replace(options, port=port, metrics_port=metrics_port, probe_port=probe_port)


def _stop_on_signals() -> None:
    """Makes the first Ctrl-C or SIGTERM raise KeyboardInterrupt, and those that follow wait for the draining."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
