"""Ports of an endpoint: each its own, and a sentence for one that a replica cannot bind."""

import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import endpoints
import pytest

from eagerly import cli
from eagerly.commands import serve
from services import ports
from services.exposition import MetricsServer
from services.options import Options


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of somebody who shares it with nobody."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        yield stranger.getsockname()[1]


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"port": 9090}, "--port and --metrics-port are both 9090"),
        ({"probe_port": 9000}, "--port and --probe-port are both 9000"),
        ({"probe_port": 9090}, "--metrics-port and --probe-port are both 9090"),
        ({"port": 9090, "metrics_host": "0.0.0.0"}, "--port and --metrics-port are both 9090"),
        ({"port": 9090, "host": "localhost"}, "--port and --metrics-port are both 9090"),
        ({"port": 9090, "host": "::", "insecure": True}, "--port and --metrics-port are both 9090"),
    ],
)
def test_one_port_given_twice_is_refused_with_both_flags(given: dict[str, object], flags: str) -> None:
    with pytest.raises(ValueError, match=f"^{flags}; give each a port of its own$"):
        Options(**given)  # type: ignore[arg-type]


def test_the_command_refuses_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--port", "9090"]) == 2
    complaint = capsys.readouterr().err
    assert "--port and --metrics-port are both 9090" in complaint
    assert len(complaint.splitlines()) == 1


@pytest.mark.parametrize(
    "given",
    [
        {"port": 0, "metrics_port": 0, "probe_port": 0},
        {"port": 9090, "metrics_host": "127.0.0.2"},
        {"port": 9090, "metrics_host": "::1"},
    ],
)
def test_free_ports_and_those_of_different_addresses_are_not_the_same(given: dict[str, object]) -> None:
    Options(**given)  # type: ignore[arg-type]


def test_a_free_port_is_none_of_those_given(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([23_111, 23_112])
    monkeypatch.setattr(ports, "find", lambda host, port, flag: port or next(free))
    found = serve._free(Options(port=0, metrics_port=23_111))
    assert (found.port, found.metrics_port) == (23_112, 23_111)


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the name `here` stand for addresses."""

    def stand_for(*addresses: str) -> None:
        def found(host: str, port: int, **how: object) -> list[tuple[object, ...]]:
            assert host == "here"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

        monkeypatch.setattr(ports.socket, "getaddrinfo", found)

    return stand_for


@pytest.mark.parametrize("addresses", [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")])
def test_a_port_is_taken_that_is_at_any_of_a_hosts_addresses(
    taken: int, addresses: tuple[str, ...], resolved: Callable[..., None]
) -> None:
    resolved(*addresses)
    with pytest.raises(ValueError, match=rf"^--port {taken} of here cannot be bound \(Address already in use\)"):
        ports.find("here", taken, "--port")


def test_an_address_that_this_machine_lacks_needs_another_that_it_has(resolved: Callable[..., None]) -> None:
    elsewhere = "192.0.2.1"
    resolved(elsewhere, "127.0.0.2")
    assert ports.find("here", 0, "--port") in ports.FREE
    resolved(elsewhere)
    with pytest.raises(ValueError, match=r"^--port 0 of here cannot be bound \(Cannot assign requested address\)"):
        ports.find("here", 0, "--port")


@pytest.mark.parametrize("flag", ["--port", "--metrics-port", "--probe-port"])
def test_a_port_that_a_replica_cannot_bind_is_named_with_its_flag_and_machine(
    taken: int, flag: str, tmp_path: Path
) -> None:
    given = {"port": 0, "metrics_port": 0, "probe_port": 0, flag.strip("-").replace("-", "_"): taken}
    running = endpoints.Endpoint([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path, **given)
    where = rf"^{flag} {taken} of 127\.0\.0\.1 cannot be bound on {socket.gethostname()} \(.*in use.*; choose another"
    with pytest.raises(ValueError, match=where):
        running.run(running.server.start())
    running.run(running.server.drain())
    running.close()


@pytest.mark.parametrize(("host", "place"), [("::1", "[::1]"), ("localhost", "127.0.0.1"), ("", "127.0.0.1")])
def test_metrics_answer_at_the_host_they_are_given(host: str, place: str, tmp_path: Path) -> None:
    try:
        ports.find(host or "127.0.0.1", 0, "--metrics-port")
    except ValueError as error:
        pytest.skip(str(error))
    server = MetricsServer(host, 0, tmp_path)
    try:
        assert urllib.request.urlopen(f"http://{place}:{server.port}/metrics").status == 200
    finally:
        server.close()
