"""A real Prometheus scrapes a real endpoint: dashboards have something to show, and alerts fire when things fail."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import endpoints
import keys
import pytest
from monitoring import VARIABLES, dashboard
from test_drift import images

from benchmarks import prometheus
from benchmarks.prometheus import Prometheus
from eagerly.client import CallError, Client, Raw
from eagerly.connection import Tls
from pipelines import reference
from services import drift

PATIENCE_S = 45.0
SAME = {"EagerlyDrift"}
"""May fire all the while: one image over and over is not what the model has learned from."""


@dataclass(frozen=True)
class Watched:
    endpoint: endpoints.Endpoint
    prometheus: Prometheus
    tls: Tls
    stop: Callable[[], None]
    """Ends the endpoint, while Prometheus goes on."""


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """An endpoint with a classifier and a sentiment model that can be told to fail, and Prometheus before it."""
    if prometheus.found() is None:
        pytest.skip("no prometheus on this machine")
    monkeypatch.setattr(drift, "LEAST_ITEMS", 1)
    authority = keys.certificate("authority")
    cert, key = keys.certificate("localhost", authority, days=(-1, 20)).write(tmp_path, "server")
    authority.write(tmp_path, "authority")
    classifier = endpoints.loaded("classifier", endpoints.classifier())
    classifier = replace(classifier, reference=reference.measure(classifier.model, images(60, 600)))
    models = [classifier, endpoints.loaded("sentiment", endpoints.Gate())]
    (tmp_path / "prometheus").mkdir()
    with contextlib.ExitStack() as outer:
        inner = outer.enter_context(contextlib.ExitStack())
        running = endpoints.serving(models, tmp_path / "metrics", tls_cert=cert, tls_key=key)
        endpoint = inner.enter_context(running)
        target = f"127.0.0.1:{endpoint.server.metrics_port}"
        asked = prometheus.running(tmp_path / "prometheus", [target], prometheus.hasty_rules())
        yield Watched(endpoint, outer.enter_context(asked), Tls(tmp_path / "authority.crt"), inner.close)


def eventually(met: Callable[[], bool], what: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < until, what()
        time.sleep(0.2)


def calls(client: Client, text: str) -> None:
    (shown,) = images(60, 1)
    client.classify([Raw(shown.tobytes(), shown.shape)])
    with contextlib.suppress(CallError):
        client.analyze([text])


def test_alerts_fire_in_a_staged_failure_and_dashboards_show_it(
    watched: Watched,
) -> None:
    endpoint, asked = watched.endpoint, watched.prometheus
    with Client(f"localhost:{endpoint.server.port}", tls=watched.tls) as client:

        def fires(text: str, *names: str) -> bool:
            calls(client, text)
            return set(names) <= asked.firing()

        eventually(lambda: fires("fine") or bool(asked.query("eagerly_replicas")), asked.firing)
        assert asked.firing() <= SAME
        eventually(lambda: fires("explode", "EagerlyErrorBudgetBurnsFast"), asked.firing)
        assert asked.firing() <= {"EagerlyErrorBudgetBurnsFast", "EagerlyErrorBudgetBurnsSlowly"} | SAME
        for name in ("serving", "models"):
            eventually(lambda name=name: not blank(asked, name), lambda name=name: blank(asked, name))
    endpoint.run(_lose_registry(endpoint))
    eventually(lambda: {"EagerlyTrackerDown", "EagerlyNoChampion"} <= asked.firing(), asked.firing)
    watched.stop()
    eventually(lambda: "EagerlyServiceGone" in asked.firing(), asked.firing)


async def _lose_registry(endpoint: endpoints.Endpoint) -> None:
    endpoint.server.registry_up.set(0)
    endpoint.server.slots["sentiment"].champion.set(0)


def blank(asked: Prometheus, name: str) -> list[str]:
    """The panels of a dashboard that have nothing to show, each with its query."""
    found = []
    for panel in dashboard(name)["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in {**VARIABLES, "$__rate_interval": prometheus.RATE_WINDOW}.items():
                query = query.replace(variable, value)
            if not asked.query(query):
                found.append(f"{panel['title']}: {query}")
    return found
