"""Whoever calls an endpoint that is there, and is not answered, is told why, and what to do about it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bare
import grpc
import keys
import pytest
from bare import Request, Response
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import HealthServicer
from grpc_status import rpc_status

from eagerly import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Authorities, one of which signs what the servers show, and a certificate that it signed for a caller."""
    made = tmp_path_factory.mktemp("keys")
    authority = keys.certificate("authority")
    (made / "ca.pem").write_bytes(authority.cert)
    (made / "other.pem").write_bytes(keys.certificate("another authority").cert)
    keys.certificate("ann", authority).write(made, "ann")
    keys.certificate("bob", authority).write(made, "bob")
    keys.certificate("localhost", authority).write(made, "own")
    keys.certificate("elsewhere", authority, name="elsewhere.example").write(made, "misnamed")
    return made


def credentials(folder: Path, name: str) -> grpc.ServerCredentials | None:
    """What a server shows: its own certificate, that of another name, its own while it asks for one, or nothing."""
    if name == "none":
        return None
    shown = folder / ("misnamed" if name == "misnamed" else "own")
    pair = shown.with_suffix(".key").read_bytes(), shown.with_suffix(".crt").read_bytes()
    if name == "mutual":
        return grpc.ssl_server_credentials([pair], (folder / "ca.pem").read_bytes(), True)
    return grpc.ssl_server_credentials([pair])


@pytest.fixture
def address(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    with bare.serving(credentials=credentials(folder, request.param)) as running:
        yield running


def complaint(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Calls, is refused, and gives the one sentence that says why."""
    assert cli.main(["predict", "sentiment", "fine", *words]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    return said


@pytest.mark.parametrize(
    ("address", "words", "says"),
    [
        ("own", "", "closes the connection; it may want TLS (--tls, or --ca FILE)"),
        ("mutual", "--ca ca.pem", "or a certificate of the caller's (--cert, --key)"),
        ("own", "--ca other.pem", "a certificate that nobody signed whom --ca, or the system without it, trusts"),
        ("own", "--tls", "a certificate that nobody signed whom --ca, or the system without it, trusts"),
        ("misnamed", "--ca ca.pem", "a certificate for another name"),
        ("none", "--ca ca.pem", "speaks no TLS; leave out --tls"),
        ("mutual", "--ca ca.pem --cert ann.crt --key bob.key", "the key that of the certificate"),
    ],
    indirect=["address"],
)
def test_what_stands_between_a_caller_and_an_endpoint_is_named(
    address: str,
    words: str,
    says: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(folder)
    said = complaint([*words.split(), "--address", address], capsys)
    assert f"what is at {address} " in said and says in said


@pytest.mark.parametrize("address", ["own", "mutual"], indirect=True)
def test_the_right_files_reach_the_endpoint(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(folder)
    words = ["--ca", "ca.pem", "--cert", "ann.crt", "--key", "ann.key"]
    assert cli.main(["predict", "sentiment", "fine", *words, "--address", address]) == 0
    assert "fine" in capsys.readouterr().out


def test_an_endpoint_that_refuses_for_now_is_heard(capsys: pytest.CaptureFixture[str]):
    def refuse(request: Request, context: Any) -> Response:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(domain="eagerly", reason="DRAINING"))
        status = status_pb2.Status(code=14, message="the endpoint is about to stop", details=[detail])
        context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError

    with bare.serving(refuse) as address:
        said = complaint(["--address", address], capsys)
    assert f"the endpoint at {address} refuses for now: the endpoint is about to stop (DRAINING)" in said


def test_an_endpoint_that_does_not_serve_yet_is_not_said_to_be_missing(capsys: pytest.CaptureFixture[str]):
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with bare.serving(health=health) as address:
        said = complaint(["--address", address], capsys)
    assert f"what is at {address} says that it does not serve now" in said
