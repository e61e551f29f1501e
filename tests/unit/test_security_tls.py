"""TLS on the gRPC port as clients see it, certificates that are replaced, and the probe port beside it."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import endpoints
import grpc
import keys
import pytest
import registries
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eagerly.v1 import sentiment_pb2
from services import expiry, security, watched
from services.options import Options

REQUEST = sentiment_pb2.AnalyzeRequest(texts=["fine"]).SerializeToString()


@pytest.fixture(scope="module")
def authority() -> keys.Issued:
    return keys.certificate("authority")


def served(folder: Path, authority: keys.Issued, **options: Any) -> Any:
    cert, key = keys.certificate("localhost", authority).write(folder, "server")
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    return endpoints.serving(models, folder / "metrics", tls_cert=cert, tls_key=key, **options)


def channel(running: endpoints.Endpoint, ca: bytes, mine: keys.Issued | None = None) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(ca, mine.key if mine else None, mine.cert if mine else None)
    alone = ("grpc.use_local_subchannel_pool", 1)
    return grpc.secure_channel(f"localhost:{running.server.port}", credentials, [alone])


def analyze(opened: grpc.Channel, timeout: float = 5) -> bytes:
    return opened.unary_unary("/eagerly.v1.Sentiment/Analyze")(REQUEST, timeout=timeout)


def refused(opened: grpc.Channel) -> grpc.StatusCode:
    with opened, pytest.raises(grpc.RpcError) as failure:
        analyze(opened)
    return failure.value.code()


def test_a_client_that_trusts_the_authority_is_answered(tmp_path: Path, authority: keys.Issued):
    with served(tmp_path, authority) as running, channel(running, authority.cert) as opened:
        assert analyze(opened)


def test_a_client_that_trusts_another_authority_does_not_connect(tmp_path: Path, authority: keys.Issued):
    with served(tmp_path, authority) as running:
        assert refused(channel(running, keys.certificate("stranger").cert)) is grpc.StatusCode.UNAVAILABLE


def test_a_client_in_the_clear_does_not_connect(tmp_path: Path, authority: keys.Issued):
    with served(tmp_path, authority) as running:
        assert refused(grpc.insecure_channel(running.address)) is grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, authority: keys.Issued) -> Iterator[endpoints.Endpoint]:
    folder = tmp_path_factory.mktemp("mutual")
    (folder / "ca.crt").write_bytes(authority.cert)
    log = str(folder / "access.jsonl")
    with served(folder, authority, client_ca=folder / "ca.crt", probe_port=0, access_log=log) as running:
        yield running


def test_a_client_with_a_certificate_of_the_authority_is_answered(mutual: endpoints.Endpoint, authority: keys.Issued):
    with channel(mutual, authority.cert, keys.certificate("ann", authority)) as opened:
        assert analyze(opened)


def test_the_access_log_names_the_holder_of_the_certificate(mutual: endpoints.Endpoint, authority: keys.Issued):
    with channel(mutual, authority.cert, keys.certificate("ben", authority, name="ben.example")) as opened:
        opened.unary_unary("/eagerly.v1.Sentiment/Analyze")(REQUEST, timeout=5, metadata=(("x-request-id", "bens"),))
    log, ends, found = mutual.folder.parent / "access.jsonl", time.monotonic() + 10, []
    while not found and time.monotonic() < ends:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        found = [line["principal"] for line in lines if line["request_id"] == "bens"]
    assert found == ["ben.example"]


def test_clients_without_a_certificate_or_with_a_bad_one_are_not_answered(
    mutual: endpoints.Endpoint, authority: keys.Issued
):
    expired = keys.certificate("ann", authority, days=(-3, -1))
    early = keys.certificate("ann", authority, days=(1, 3))
    foreign = keys.certificate("ann", keys.certificate("authority"))
    for mine in (None, expired, early, foreign, keys.certificate("ann")):
        assert refused(channel(mutual, authority.cert, mine)) is grpc.StatusCode.UNAVAILABLE


def issuer_seen(running: endpoints.Endpoint, ca: bytes) -> bool:
    """Whether a new connection is answered by a certificate that this authority has signed."""
    with channel(running, ca) as opened:
        try:
            return bool(analyze(opened))
        except grpc.RpcError:
            return False


def test_new_handshakes_see_the_new_certificate_and_old_connections_live_on(tmp_path: Path, authority: keys.Issued):
    following = keys.certificate("following")
    with served(tmp_path, authority) as running, channel(running, authority.cert) as before:
        assert analyze(before)
        keys.certificate("localhost", following).write(tmp_path, "server")
        assert registries.eventually(lambda: issuer_seen(running, following.cert), 10)
        assert not issuer_seen(running, authority.cert)
        assert analyze(before)


def test_the_end_of_the_certificate_is_in_the_metrics_and_follows_the_files(
    tmp_path: Path, authority: keys.Issued, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(expiry, "LOOK_S", 0.05)
    issued = keys.certificate("localhost", authority, days=(-1, 3))
    with served(tmp_path, authority) as running:
        today = shown_end(running)
        assert today == pytest.approx(time.time() + 86_400, abs=60)
        issued.write(tmp_path, "server")
        assert registries.eventually(
            lambda: shown_end(running) == issued.certificate.not_valid_after_utc.timestamp(), 10
        )


def test_the_earliest_end_of_a_chain_counts_and_no_certificate_has_none(tmp_path: Path, authority: keys.Issued):
    issued = keys.certificate("localhost", authority, days=(-1, 3))
    (tmp_path / "chain.crt").write_bytes(issued.cert + authority.cert)
    (tmp_path / "chain.key").write_bytes(issued.key)
    files = {"tls_cert": tmp_path / "chain.crt", "tls_key": tmp_path / "chain.key"}
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with endpoints.serving(models, tmp_path / "metrics", **files) as running:
        assert shown_end(running) == authority.certificate.not_valid_after_utc.timestamp()
    with endpoints.serving(models, tmp_path / "others") as running:
        assert shown_end(running) is None


def shown_end(running: endpoints.Endpoint) -> float | None:
    """When the certificate ends, as Prometheus reads it."""
    text = urllib.request.urlopen(running.metrics).read().decode()
    found = re.findall(r"^eagerly_certificate_expiry_timestamp_seconds (\S+)$", text, re.MULTILINE)
    return float(found[0]) if found else None


def test_a_certificate_swapped_by_links_is_seen(tmp_path: Path, authority: keys.Issued):
    """Kubernetes mounts a secret as links into a folder that is itself a link, and swaps that one."""
    following = keys.certificate("following")
    for name, signer in (("one", authority), ("two", following)):
        (tmp_path / name).mkdir()
        keys.certificate("localhost", signer).write(tmp_path / name, "server")
    (tmp_path / "data").symlink_to("one")
    for ending in ("crt", "key"):
        (tmp_path / f"tls.{ending}").symlink_to(f"data/server.{ending}")
    options = {"tls_cert": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key"}
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with endpoints.serving(models, tmp_path / "metrics", **options) as running:
        assert issuer_seen(running, authority.cert)
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(tmp_path / "data")
        assert registries.eventually(lambda: issuer_seen(running, following.cert), 10)


def test_a_pair_that_does_not_hold_yet_is_taken_when_it_does(
    tmp_path: Path, authority: keys.Issued, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watched, "RETRY_S", 0.2)
    with served(tmp_path, authority) as running:
        following = keys.certificate("following")
        keys.certificate("localhost", following, days=(3 / 86_400, 1)).write(tmp_path, "server")
        assert issuer_seen(running, authority.cert)
        assert registries.eventually(lambda: issuer_seen(running, following.cert), 10)


@pytest.mark.parametrize("broken", ["half", "strange", "expired", "gone"])
def test_a_bad_new_pair_leaves_the_old_in_force_and_is_logged(
    tmp_path: Path, authority: keys.Issued, caplog: pytest.LogCaptureFixture, broken: str
):
    with served(tmp_path, authority) as running:
        assert issuer_seen(running, authority.cert)
        cert, key = tmp_path / "server.crt", tmp_path / "server.key"
        if broken == "half":
            cert.write_bytes(cert.read_bytes()[:100])
        elif broken == "strange":
            key.write_bytes(keys.certificate("other").key)
        elif broken == "expired":
            keys.certificate("localhost", authority, days=(-3, -1)).write(tmp_path, "server")
        else:
            key.unlink()
        assert issuer_seen(running, authority.cert)
        assert "stays in force" in caplog.text
        following = keys.certificate("following")
        keys.certificate("localhost", following).write(tmp_path, "server")
        assert registries.eventually(lambda: issuer_seen(running, following.cert), 10)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("gone", "--tls-key"),
        ("not PEM", "--tls-cert holds no certificate in PEM"),
        ("strange key", "--tls-key does not belong to the first certificate of --tls-cert"),
        ("no key", "--tls-key is no private key in PEM"),
        ("expired", "--tls-cert holds a certificate that is valid from"),
        ("no authority", "--client-ca holds no certificate in PEM"),
        ("Ed25519", "--tls-key is neither an RSA nor an elliptic-curve key"),
    ],
)
def test_bad_files_are_refused_at_the_start_by_their_flag(tmp_path: Path, broken: str, says: str):
    issued = keys.certificate("localhost", days=(-3, -1) if broken == "expired" else (-1, 1))
    cert, key = issued.write(tmp_path, "server")
    ca = cert
    if broken == "gone":
        key.unlink()
    elif broken == "not PEM":
        cert.write_text("nothing")
    elif broken == "strange key":
        key.write_bytes(keys.certificate("other").key)
    elif broken == "no key":
        key.write_bytes(cert.read_bytes())
    elif broken == "no authority":
        ca = tmp_path / "ca"
        ca.write_text("nothing")
    elif broken == "Ed25519":
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric import ed25519

        private = ed25519.Ed25519PrivateKey.generate()
        key.write_bytes(private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    with pytest.raises(ValueError, match=says) as problem:
        security.of(Options(tls_cert=cert, tls_key=key, client_ca=ca))
    assert "\n" not in str(problem.value)


def test_the_probe_port_answers_health_in_the_clear_though_the_other_wants_a_certificate(mutual: endpoints.Endpoint):
    with grpc.insecure_channel(f"127.0.0.1:{mutual.server.probe_port}") as opened:
        stub: Any = health_pb2_grpc.HealthStub(opened)
        for service in ("", "eagerly.v1.Sentiment"):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "method",
    [
        "/eagerly.v1.Sentiment/Analyze",
        "/inference.GRPCInferenceService/ModelInfer",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_the_probe_port_knows_nothing_else(mutual: endpoints.Endpoint, method: str):
    with grpc.insecure_channel(f"127.0.0.1:{mutual.server.probe_port}") as opened, pytest.raises(grpc.RpcError) as told:
        opened.unary_unary(method)(b"", timeout=5)
    assert told.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_probe_port_says_not_serving_while_the_endpoint_drains(tmp_path: Path):
    running = endpoints.Endpoint([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path, probe_port=0)
    running.run(running.server.start())
    with grpc.insecure_channel(f"127.0.0.1:{running.server.probe_port}") as opened:
        stub: Any = health_pb2_grpc.HealthStub(opened)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        running.run(running.server.drain())
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    running.close()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"tls_cert": Path("a")}, "need each other"),
        ({"client_ca": Path("a")}, "--client-ca needs TLS"),
        ({"jwks": Path("a")}, "--jwt-issuer and --jwt-audience"),
        ({"host": "0.0.0.0"}, "--insecure"),
        ({"host": "::"}, "--insecure"),
        ({"host": "", "tokens": Path("a")}, "--insecure"),
        ({"host": "example.org", "tls_cert": Path("a"), "tls_key": Path("a")}, "--insecure"),
        ({"host": "0.0.0.0", "tokens": Path("a")}, "--insecure"),
        ({"probe_port": 70_000}, "--probe-port is 70000"),
    ],
)
def test_half_a_lock_and_an_open_door_to_other_machines_are_refused(flags: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        Options(**flags)


@pytest.mark.parametrize(
    "flags",
    [
        {"host": "127.0.0.2"},
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "insecure": True},
        {"host": "0.0.0.0", "tls_cert": Path("a"), "tls_key": Path("a"), "tokens": Path("a")},
        {"host": "0.0.0.0", "tls_cert": Path("a"), "tls_key": Path("a"), "client_ca": Path("a")},
    ],
)
def test_loopback_and_a_locked_door_are_allowed(flags: dict[str, Any]):
    assert Options(**flags).host == flags["host"]
