"""The Ray Serve deployment whose replicas own their gRPC port.

Ray Serve places, watches, updates and scales the replicas; calls reach them without passing its proxies. Replicas of
one node share the port, and the kernel spreads connections over them.
"""

import asyncio
import functools
from pathlib import Path
from typing import Any

from ray import serve

from services import memory, models, ports, transport
from services.apart import Apart
from services.follower import Follower
from services.options import Options
from services.resources import Hardware
from services.scaling import Scaling
from services.server import Server
from services.store import Store

ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""Has a replica share Ray's own event loop: grpc.aio wakes every loop of a process for every call (grpc#23377), and
with a second loop each call costs a fifth more CPU time."""


class Endpoint:
    """One replica: models in memory, and a server that runs on the replica's event loop."""

    async def __init__(
        self,
        options: Options,
        stored: list[models.Stored],
        metrics_folder: str,
        store: Store | None,
        device: str,
        parts: dict[str, list[str]],
        least_replicas: int,
    ) -> None:
        """Loads and warms up the models, then listens; a replica is ready when its port answers.

        Raises ValueError when a model's folder is corrupt, or none has come from the registry.
        """
        ports.narrow()
        self._least_replicas = least_replicas
        self._apart = await asyncio.to_thread(Apart, parts)
        load = functools.partial(self._apart.load, device=device)
        self._follower = Follower(store, stored, options, load) if store else None
        loaded = await asyncio.to_thread(_load, self._follower, stored, load, options.threads)
        self._server = Server(options, loaded, Path(metrics_folder))
        await self._server.start()
        if parts:
            self._apart.follow(self._server)
        if self._follower:
            await self._follower.follow(self._server)

    async def check_health(self) -> None:
        """Raises when a model's thread has died, upon which Serve replaces the replica."""
        self._server.want(expected(serve.get_replica_context().world_size, self._least_replicas))
        self._server.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Reports what the policy of scaling.py decides by; Serve's own count of requests sees no call.

        A coroutine, as Serve would call a plain method on another thread than the event loop's, which this measures.
        """
        return self._server.load()

    async def __del__(self) -> None:
        """Drains; Serve awaits this when it stops a replica gracefully."""
        follower: Follower | None = getattr(self, "_follower", None)
        closing = asyncio.create_task(follower.close()) if follower else None
        if hasattr(self, "_server"):
            self._server.retire()
            await self._apart.close()
            await self._server.drain()
        if closing:
            await closing  # beside the drain, as a candidate that hangs, and the watcher, take seconds to end


def application(
    options: Options,
    stored: list[models.Stored],
    metrics_folder: str,
    hardware: Hardware,
    store: Store | None = None,
    parts: dict[str, list[str]] | None = None,
) -> serve.Application:
    """Describes an endpoint to Serve.

    metrics_folder: where the replicas of a node keep their figures. hardware: what each replica reserves, and how many
    there are. store: where each node keeps what it has of the registry that replicas follow; without one they serve
    what is given for ever. parts: the applications with the networks of tasks that have them apart.
    An update starts the new replica before it stops the old one; a model that cannot be loaded fails at once.
    """
    light = hardware.is_light({one.service for one in stored})
    environment = ONE_LOOP | memory.ENVIRONMENT | transport.ENVIRONMENT
    deployment = serve.deployment(
        name="endpoint",
        **_number(hardware.scaling),
        ray_actor_options={**hardware.actor(light), "runtime_env": {"env_vars": environment}},
        max_surge_percent=100,
        max_constructor_retry_count=1,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=options.notice_s + options.drain_s + 5,
    )
    device, least_replicas = hardware.resources.device, hardware.scaling.replicas
    return deployment(Endpoint).bind(options, stored, metrics_folder, store, device, parts or {}, least_replicas)


def expected(world_size: int | None, least_replicas: int) -> int:
    """Says how many replicas there should be at least.

    world_size: what Serve tells a replica, which where their number follows the load is None or 1.
    """
    return max(world_size or 0, least_replicas)


def _number(scaling: Scaling) -> dict[str, Any]:
    """Says how many replicas, in Serve's words."""
    return {"autoscaling_config": scaling.config()} if scaling.is_automatic else {"num_replicas": scaling.replicas}


def _load(
    follower: Follower | None, stored: list[models.Stored], load: models.Loader, threads: int
) -> list[models.Loaded]:
    import torch

    torch.set_num_threads(threads)
    try:
        return follower.load() if follower else [load(one) for one in stored]
    except ValueError as error:
        raise ValueError(str(error)) from None  # the plain type, by which hosting.py finds the sentence
