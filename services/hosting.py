"""Puts an endpoint on Ray and takes it off again: what `eagerly serve` and `eagerly demo` stand on."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pipelines import capacity, launch, tasks, tracking
from services.follower import environment
from services.models import Stored, home
from services.options import Options
from services.resources import Hardware
from services.server import address
from services.store import Store, absolute

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.schema import DeploymentStatusOverview

HEALTH_TIMEOUT_S = 30.0
LEAVE_S = 30.0
"""Seconds beyond notice and drain until an application must be gone: a replica has 5 more to end, a part of a network
that lives apart 20 altogether, and Serve takes its turns."""
LOOK_S = 0.3
"""Seconds between looks at whether one is gone."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
}
"""Ray's own settings where we start it: its default priority for replicas is far below that of their callers, its own
metrics, which no dashboard shows here, and a controller that looks ten times a second take 3 % of a core, and processes
that wait for tasks, of which an endpoint has none, another 1 %, besides a second of the start."""


class Champions:
    """Fetches models in a process of its own, because importing mlflow takes as long as starting Ray does."""

    def __init__(self, words: list[str], store: Store) -> None:
        """Starts the process; it sees this process's environment and folder.

        words: tasks' names, or the folders of a user's own.
        """
        names = [tasks.find(word).name for word in words]
        self._certain = all(store.good(name) or store.current(name) for name in names)
        self._answer: tuple[list[Stored], list[str]] | None = None
        command = [sys.executable, "-m", "services.watcher", "--home", store.home, "--once", *words]
        self._process = subprocess.Popen(
            command,
            env={**environment(), "MLFLOW_TRACKING_URI": store.uri},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> "Champions":
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the process if it has not ended by itself."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def check(self) -> None:
        """Raises ValueError as wait() does, at once where each task has a model here that stands in for a champion.

        Else it waits, and imports Ray meanwhile, so that no Ray is started to serve nothing.
        """
        if not self._certain:
            _import_ray()
            self.wait()

    def wait(self) -> tuple[list[Stored], list[str]]:
        """Returns the models, and a sentence for each that is not the champion.

        Raises ValueError with the process's sentence when one cannot be had.
        """
        if self._answer is not None:
            return self._answer
        output, complaint = self._process.communicate()
        if self._process.returncode == 2 and complaint.strip():
            raise ValueError(complaint.strip().splitlines()[-1])
        if self._process.returncode:
            raise RuntimeError(f"fetching models failed:\n{complaint}")
        found = [json.loads(line) for line in output.splitlines()]
        self._answer = ([Stored(**one["stored"]) for one in found], [one["note"] for one in found if one["note"]])
        return self._answer


def store() -> Store:
    """Names the registry of MLFLOW_TRACKING_URI and the folder of EAGERLY_HOME for any process on any node."""
    return Store(str(home()), absolute(tracking.uri()))


def _import_ray() -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray import serve  # noqa: F401  # slow, and reads the environment


@contextlib.contextmanager
def ray_running() -> Iterator[bool]:
    """Connects to Ray with Serve on it: this process's, that of RAY_ADDRESS, or one of our own, which ends here.

    Yields whether it is our own. Raises ValueError when no cluster answers at RAY_ADDRESS.
    """
    _import_ray()
    import ray
    from ray import serve

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)

    connected = ray.is_initialized()
    local = not connected and not os.environ.get("RAY_ADDRESS")
    if local:
        launch.keep_private()
    if not connected:
        launch.join({"address": "local", "include_dashboard": False} if local else {}, "serve")
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR", "enable_access_log": False})
        yield local
    finally:
        if not connected:
            ray.shutdown()


@contextlib.contextmanager
def deployed(options: Options, stored: list[Stored], hardware: Hardware, store: Store | None = None) -> Iterator[Path]:
    """Runs an endpoint while the block runs; it answers when the block begins, and is drained when it ends.

    Yields the folder where the replicas of this node keep their figures. Raises ValueError with the replica's own
    sentence when it cannot start, as when a model cannot be loaded; for GPUs that the cluster lacks, a registry that
    its machines cannot share, and a port whose endpoint the cluster runs already.
    """
    import ray

    from services import endpoint

    folder = Path(tempfile.gettempdir()) / f"eagerly-metrics-{uuid.uuid4().hex}"
    hardware.check({one.service for one in stored}, ray.cluster_resources().get("GPU", 0))
    machine_count = len(capacity.machines())
    if store:
        tracking.check_reach(machine_count)
    _tell_wait(hardware)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        parts = stack.enter_context(_parts(options, stored, hardware))
        app = endpoint.application(options, stored, str(folder), hardware, store if options.poll_s else None, parts)
        stack.enter_context(_running({f"eagerly-{options.port}": app}, _patience_s(options)))
        if target := _asked(options, machine_count):
            await_health(target)
        yield folder


def _tell_wait(hardware: Hardware) -> None:
    """Says on standard error what the start waits for, where fewer CPUs are free than it reserves."""
    import ray

    asked = hardware.cpus * (hardware.scaling.replicas + sum(hardware.apart.values()))
    if not asked:
        return
    there, free = (found.get("CPU", 0.0) for found in (ray.cluster_resources(), ray.available_resources()))
    if free < asked:
        has = f"the cluster has {there:g}, {free:g} of them free"
        print(f"waiting for CPUs: the endpoint takes {asked:g}, and {has}; Ctrl-C ends it", file=sys.stderr, flush=True)


def _asked(options: Options, machine_count: int) -> str | None:
    """Says where this machine may ask for health; nowhere where replicas may be elsewhere, or want a certificate.

    Serve has awaited their start in any case.
    """
    if machine_count > 1:
        return None
    if options.probe_port is not None:
        return address(options.probe_host, options.probe_port)
    return address(options.host, options.port) if options.tls_cert is None else None


@contextlib.contextmanager
def _parts(options: Options, stored: list[Stored], hardware: Hardware) -> "Iterator[dict[str, list[str]]]":
    """Runs the processes of networks that live apart; yields their applications' names, by task and in order."""
    if not hardware.apart:
        yield {}
        return
    from services import apart

    names: dict[str, list[str]] = {}
    apps: dict[str, Application] = {}
    for one in stored:
        count = hardware.apart.get(one.service, 0)
        names[one.service] = [f"eagerly-{options.port}-{one.service}-{index + 1}" for index in range(count)]
        for index, name in enumerate(names[one.service]):
            apps[name] = apart.application(one, index, count, options.threads, hardware)
    with _running(apps, _patience_s(options)):
        yield {task: found for task, found in names.items() if found}


@contextlib.contextmanager
def _running(apps: "dict[str, Application]", patience_s: float) -> Iterator[None]:
    """Runs applications of Serve, which have started when the block begins and are gone when it has ended.

    patience_s: seconds that they have to go. Raises ValueError with the sentence of the one that could not start, and
    for one that runs there already: it is somebody else's, whom Serve would let us update and delete.
    """
    from ray import serve

    if there := sorted(set(apps) & set(serve.status().applications)):
        raise ValueError(
            f"this cluster runs {', '.join(there)} already, an endpoint of the same port; choose another with --port, "
            "or stop the `eagerly serve` that runs it"
        )
    try:
        try:
            serve.run_many([serve.RunTarget(app, name, route_prefix=None) for name, app in apps.items()])
        except RuntimeError:
            there = serve.status().applications
            reports = {key: one for name in apps if name in there for key, one in there[name].deployments.items()}
            raise ValueError(_sentence(reports)) from None
        yield
    finally:
        _end(apps, patience_s)


def _end(names: Iterable[str], patience_s: float) -> None:
    """Deletes applications and returns when they are gone; those that are not in time are named, and left to Ray.

    Serve's own waiting raises after 60 s, however long replicas have to drain.
    """
    from ray import serve

    for name in names:
        serve.delete(name, _blocking=False)
    until = time.monotonic() + patience_s
    while there := sorted(set(names) & set(serve.status().applications)):
        if time.monotonic() >= until:
            late = f"still there after {patience_s:.0f} s, and left to Ray to end: {', '.join(there)}"
            print(late, file=sys.stderr, flush=True)
            return
        time.sleep(LOOK_S)


def _patience_s(options: Options) -> float:
    """Gives the seconds in which what serves must be gone once it is told to go."""
    return options.notice_s + options.drain_s + LEAVE_S


def await_health(target: str) -> None:
    """Returns when health says SERVING over gRPC; raises ValueError when it does not in time."""
    with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:  # it is on this machine
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=HEALTH_TIMEOUT_S)
        except grpc.RpcError:
            reply = health_pb2.HealthCheckResponse()
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise ValueError(f"the endpoint at {target} started but does not answer; see Ray's logs")


def _sentence(deployments: "dict[str, DeploymentStatusOverview]") -> str:
    """Finds the replica's own ValueError in Serve's report of a failed start, which holds a traceback."""
    message = "\n".join(deployment.message for deployment in deployments.values())
    for line in reversed(message.splitlines()):
        _, mark, sentence = line.partition("ValueError: ")
        if mark:
            return sentence.strip()
    return f"the endpoint could not be started; Ray Serve reports:\n{message}"
