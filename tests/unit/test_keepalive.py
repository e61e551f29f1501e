"""Peers that are gone are noticed, and pings are borne, except from those who ping too often."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import endpoints
import psutil
import pytest
import registries
import relays

from benchmarks.frames import ACK, PING, SETTINGS, Peer, frame
from eagerly.client import Client
from services import transport

ENHANCE_YOUR_CALM = (11).to_bytes(4, "big")
PINGS = transport.PING_STRIKES + 2
"""One more than are borne when they come too early; the first never does."""


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[relays.Relay]:
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with endpoints.serving(models, tmp_path) as running, relays.Relay(running.address) as opened:
        yield opened


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that ask silent peers after a second, and wait one for the answer."""
    monkeypatch.setattr(transport, "KEEPALIVE_S", 1)
    monkeypatch.setattr(transport, "PONG_S", 1)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that bear a ping every second."""
    monkeypatch.setattr(transport, "PING_INTERVAL_S", 1)


def goodbyes(line: relays.Line) -> list[bytes]:
    """Why the server asked the client to go: code and words."""
    return [frame.payload[4:] for frame in line.sent(relays.GOAWAY)]


def pings(line: relays.Line, flags: int) -> int:
    return len([frame for frame in line.sent(PING) if frame.flags == flags])


def connect(relay: relays.Relay) -> tuple[Peer, relays.Line]:
    """Makes a connection that answers no ping."""
    peer = Peer(relay.address)
    peer.send(frame(SETTINGS, ACK, 0))
    assert registries.eventually(lambda: relay.lines and relay.lines[0].answered, 5)
    return peer, relay.lines[0]


def ping(peer: Peer, pause_s: float) -> None:
    for number in range(PINGS):
        peer.send(frame(PING, 0, 0, number.to_bytes(8, "big")))
        time.sleep(pause_s)


def test_an_idle_client_stays_connected_while_it_answers_and_is_dropped_once_it_is_gone(
    hasty: None, relay: relays.Relay
):
    with Client(relay.address) as client:
        assert client.analyze(["fine"])[0].labels
        (line,) = relay.lines
        time.sleep(0.3)
        before = pings(line, 0)
        assert registries.eventually(lambda: pings(line, 0) >= before + 2, 10)
        assert client.analyze(["fine"])[0].labels
        assert relay.lines == [line] and not line.ended.is_set()
        relay.deaf.set()
        assert line.ended.wait(10), "the server holds on to a peer that is gone"
        assert goodbyes(line) == [ENHANCE_YOUR_CALM + b"ping_timeout"]


def test_a_peer_that_never_called_is_dropped_once_it_is_gone(hasty: None, relay: relays.Relay):
    peer, line = connect(relay)
    assert line.ended.wait(10), "the server holds on to a peer that is gone"
    assert goodbyes(line) == [ENHANCE_YOUR_CALM + b"ping_timeout"]
    peer.close()


def test_the_kernel_drops_a_machine_that_acknowledges_nothing(relay: relays.Relay):
    with Client(relay.address) as client:
        assert client.analyze(["fine"])[0].labels
        (here,) = [one for one in psutil.Process().net_connections("tcp") if one.raddr[1:] == (relay.lines[0].port,)]
        with socket.socket(fileno=os.dup(here.fd)) as accepted:
            patience_ms = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert patience_ms == transport.ANSWER_S * 1000


def test_the_shipped_client_is_never_told_that_it_pings_too_often(relay: relays.Relay):
    with Client(relay.address) as client:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert client.analyze(["fine"] * 100)[99].labels
        (line,) = relay.lines
        assert goodbyes(line) == []
        assert pings(line, ACK) > PINGS, "too few to tell"


def test_pings_at_the_interval_that_is_allowed_are_borne(lenient: None, relay: relays.Relay):
    peer, line = connect(relay)
    ping(peer, 1.2)
    assert goodbyes(line) == []
    assert pings(line, ACK) == PINGS
    peer.close()


def test_one_that_pings_too_often_is_told_so_and_disconnected(relay: relays.Relay):
    peer, line = connect(relay)
    ping(peer, 0.05)
    assert line.ended.wait(5)
    assert goodbyes(line) == [ENHANCE_YOUR_CALM + b"too_many_pings"]
    peer.close()
