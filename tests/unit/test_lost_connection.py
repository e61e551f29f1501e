"""A connection whose other end is lost without a word is noticed and left, by pings that the server bears with."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import endpoints
import pytest

from eagerly import connection
from eagerly.client import Client
from eagerly.connection import Connection
from services import transport
from services.options import Options


class Relay:
    """A way to a server, of which the connections there are can be made to swallow what they are given."""

    def __init__(self, port: int) -> None:
        self.server = port
        self.door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.door.getsockname()[1]
        self.ends: list[socket.socket] = []
        self.lost = threading.Event()
        self.connections = 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                caller, _ = self.door.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.server))
            self.connections += 1
            self.ends += [caller, server]
            for source, target in ((caller, server), (server, caller)):
                threading.Thread(target=self.carry, args=(source, target, self.lost), daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket, lost: threading.Event) -> None:
        while True:
            try:
                data = source.recv(65536)
                if not lost.is_set():
                    target.sendall(data) if data else target.shutdown(socket.SHUT_WR)
            except OSError:
                return
            if not data:
                return

    def lose(self) -> None:
        """Swallows what comes over the connections there are, and says nothing; new ones are sound."""
        self.lost.set()
        self.lost = threading.Event()

    def close(self) -> None:
        self.door.close()
        for end in self.ends:
            end.close()


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    monkeypatch.setattr(connection, "KEEPALIVE_S", 1)
    monkeypatch.setattr(connection, "PONG_S", 1)
    monkeypatch.setattr(transport, "PING_INTERVAL_S", 0)
    with endpoints.serving([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path) as running:
        way = Relay(running.server.port)
        yield way
        way.close()


def test_a_call_on_a_lost_connection_is_made_again_on_another(relay: Relay) -> None:
    with Client(f"127.0.0.1:{relay.port}", timeout_s=20) as client:
        assert client.analyze(["before"])[0].labels[0].label == "before"
        relay.lose()
        began = time.monotonic()
        assert client.analyze(["after"])[0].labels[0].label == "after"
        assert time.monotonic() - began < 10
    assert relay.connections == 2


def test_a_lost_connection_that_is_idle_is_left_before_the_next_call(relay: Relay) -> None:
    with Client(f"127.0.0.1:{relay.port}", timeout_s=20) as client:
        client.analyze(["before"])
        time.sleep(0.5)  # for gRPC's own pings to be answered
        relay.lose()
        deadline = time.monotonic() + 15
        while relay.connections < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert relay.connections == 2, "no call was made meanwhile"
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
