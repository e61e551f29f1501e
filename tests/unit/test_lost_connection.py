"""A connection whose other end is lost without a word is noticed and left, by pings that the server bears with."""

import time
from collections.abc import Iterator
from pathlib import Path

import endpoints
import pytest
import registries
import relays

from eagerly import connection
from eagerly.client import Client
from eagerly.connection import Connection
from services import transport
from services.options import Options


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[relays.Relay]:
    monkeypatch.setattr(connection, "KEEPALIVE_S", 1)
    monkeypatch.setattr(connection, "PONG_S", 1)
    monkeypatch.setattr(transport, "PING_INTERVAL_S", 0)
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with endpoints.serving(models, tmp_path) as running, relays.Relay(running.address) as opened:
        yield opened


def test_a_call_on_a_lost_connection_is_made_again_on_another(relay: relays.Relay) -> None:
    with Client(relay.address, timeout_s=20) as client:
        assert client.analyze(["before"])[0].labels[0].label == "before"
        relay.lose()
        began = time.monotonic()
        assert client.analyze(["after"])[0].labels[0].label == "after"
        assert time.monotonic() - began < 10
    assert len(relay.lines) == 2


def test_a_lost_connection_that_is_idle_is_left_before_the_next_call(relay: relays.Relay) -> None:
    with Client(relay.address, timeout_s=20) as client:
        client.analyze(["before"])
        time.sleep(0.5)  # for gRPC's own pings to be answered
        relay.lose()
        assert registries.eventually(lambda: len(relay.lines) == 2), "no call was made meanwhile"
        began = time.monotonic()
        client.analyze(["after"])
        assert time.monotonic() - began < 1


def test_the_client_pings_no_more_often_than_its_server_bears_with() -> None:
    ours = dict(Connection("127.0.0.1:1").options)
    theirs = dict(transport.arguments(Options()))
    assert int(ours["grpc.keepalive_time_ms"]) >= 2 * int(theirs["grpc.http2.min_ping_interval_without_data_ms"])
    assert int(ours["grpc.keepalive_permit_without_calls"]) <= theirs["grpc.keepalive_permit_without_calls"]
    assert 30_000 <= int(ours["grpc.keepalive_time_ms"]) <= 60_000
    assert (ours["grpc.keepalive_timeout_ms"], ours["grpc.http2.ping_timeout_ms"]) == (10_000, 20_000)
