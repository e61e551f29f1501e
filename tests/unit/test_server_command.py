"""What `eagerly serve` refuses before it starts anything."""

import socket
from collections.abc import Iterator

import pytest

from eagerly import cli
from services import ports


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on, willing to share it."""
    stranger = socket.socket()
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    stranger.bind(("127.0.0.1", 0))
    stranger.listen()
    with stranger:
        yield stranger.getsockname()[1]


@pytest.mark.parametrize("flag", ["--port", "--metrics-port"])
def test_a_port_in_use_is_refused_even_where_it_could_be_shared(
    taken: int, capsys: pytest.CaptureFixture[str], flag: str
):
    others = ["--port", "0"] if flag == "--metrics-port" else []
    assert cli.main(["serve", flag, str(taken), *others]) == 2
    complaint = capsys.readouterr().err
    assert f"{flag} {taken}" in complaint
    assert "in use" in complaint
    assert len(complaint.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "70000"], "--port is 70000; it must be 0 to 65535"),
        (["--port", "-1"], "--port"),
        (["--host", "192.0.2.1", "--port", "0"], "192.0.2.1"),
    ],
)
def test_an_address_that_cannot_be_bound_is_refused(capsys: pytest.CaptureFixture[str], words: list[str], says: str):
    assert cli.main(["serve", *words]) == 2
    complaint = capsys.readouterr().err
    assert says in complaint
    assert len(complaint.splitlines()) == 1


def test_an_unknown_service_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["serve", "weather"]) == 2
    complaint = capsys.readouterr().err
    assert "'weather'" in complaint
    assert "classifier, sentiment, recommender" in complaint


def test_free_ports_differ_and_lie_below_those_of_outgoing_connections():
    found = [ports.find("127.0.0.1", 0, "--port") for _ in range(20)]
    assert len(set(found)) == 20
    assert max(found) < 32_768
