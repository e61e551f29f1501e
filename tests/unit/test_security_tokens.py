"""Tokens and permissions as callers meet them at a locked endpoint, and `eagerly tokens new`."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import endpoints
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from eagerly import cli
from eagerly.v1 import sentiment_pb2
from services import tokens

REQUEST = sentiment_pb2.AnalyzeRequest(texts=["fine"]).SerializeToString()
TYPED, OPEN = "/eagerly.v1.Sentiment/Analyze", "/inference.GRPCInferenceService/ServerLive"
REFLECTION = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


def outcome(channel: grpc.Channel, method: str, *metadata: tuple[str, str]) -> tuple[grpc.StatusCode, str]:
    """How a call ends: its code, and what it is told when it is not answered."""
    try:
        channel.unary_unary(method)(REQUEST if method == TYPED else b"", timeout=5, metadata=metadata)
    except grpc.RpcError as refused:
        call: Any = refused
        return call.code(), str(call.details())
    return grpc.StatusCode.OK, ""


def bearing(token: str) -> tuple[str, str]:
    return "authorization", f"Bearer {token}"


@pytest.fixture(scope="module")
def issued() -> dict[str, tuple[str, str]]:
    """Tokens by who bears them, each with its line in the file."""
    permissions = {
        "all": ["*"],
        "service": ["eagerly.v1.Sentiment/*"],
        "method": ["eagerly.v1.Sentiment/Analyze"],
        "open": ["inference.GRPCInferenceService/*"],
        "both": ["eagerly.v1.Sentiment/Analyze", "inference.GRPCInferenceService/ServerLive"],
        "other": ["eagerly.v1.Classifier/*", "eagerly.v1.Sentiment/Other"],
    }
    return {name: tokens.issue(name, granted) for name, granted in permissions.items()}


@pytest.fixture(scope="module")
def endpoint(
    tmp_path_factory: pytest.TempPathFactory, issued: dict[str, tuple[str, str]]
) -> Iterator[endpoints.Endpoint]:
    folder = tmp_path_factory.mktemp("locked")
    file = folder / "tokens"
    file.write_text("# who may call\n\n" + "".join(line for _, line in issued.values()))
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with endpoints.serving(models, folder / "metrics", tokens=file) as running:
        yield running


@pytest.fixture(scope="module")
def channel(endpoint: endpoints.Endpoint) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(endpoint.address) as opened:
        yield opened


@pytest.mark.parametrize(
    ("bearer", "may_type", "may_open"),
    [
        ("all", True, True),
        ("service", True, False),
        ("method", True, False),
        ("open", False, True),
        ("both", True, True),
        ("other", False, False),
    ],
)
def test_a_token_opens_what_it_permits_and_nothing_else(
    channel: grpc.Channel, issued: dict[str, tuple[str, str]], bearer: str, may_type: bool, may_open: bool
):
    token = issued[bearer][0]
    for method, may in ((TYPED, may_type), (OPEN, may_open)):
        code, told = outcome(channel, method, bearing(token))
        assert code is (grpc.StatusCode.OK if may else grpc.StatusCode.PERMISSION_DENIED)
        assert may or method.removeprefix("/") in told
        assert token not in told


def test_a_call_without_a_token_is_told_how_to_send_one(channel: grpc.Channel):
    for method in (TYPED, OPEN):
        code, told = outcome(channel, method)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "authorization: Bearer" in told


def changed(token: str) -> str:
    return token[:-2] + ("AA" if token[-2:] != "AA" else "BB")


@pytest.mark.parametrize(
    "header",
    [
        lambda token: "Bearer",
        lambda token: "Bearer ",
        lambda token: token,
        lambda token: f"Basic {token}",
        lambda token: f"Bearer {changed(token)}",
        lambda token: f"Bearer {token[:-1]}",
        lambda token: f"Bearer {token} {token}",
        lambda token: f"Bearer {tokens.digest(token).hex()}",
        lambda token: "Bearer " + "x" * 7000,
        lambda token: "Bearer a.b.c",
        lambda token: "Bearer *",
    ],
)
def test_what_is_no_valid_token_is_unauthenticated_and_not_echoed(
    channel: grpc.Channel, issued: dict[str, tuple[str, str]], header: Callable[[str], str]
):
    token = issued["all"][0]
    code, told = outcome(channel, TYPED, ("authorization", header(token)))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert token[8:20] not in told
    assert "xxxx" not in told


def test_the_scheme_is_written_in_any_case(channel: grpc.Channel, issued: dict[str, tuple[str, str]]):
    assert outcome(channel, TYPED, ("authorization", f"bearer {issued['all'][0]}"))[0] is grpc.StatusCode.OK


def test_a_second_authorization_does_not_help(channel: grpc.Channel, issued: dict[str, tuple[str, str]]):
    code, _ = outcome(channel, TYPED, bearing("wrong"), bearing(issued["all"][0]))
    assert code is grpc.StatusCode.UNAUTHENTICATED


def test_health_needs_no_token(channel: grpc.Channel):
    stub: Any = health_pb2_grpc.HealthStub(channel)
    reply = stub.Check(health_pb2.HealthCheckRequest(service="eagerly.v1.Sentiment"), timeout=5)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def reflect(channel: grpc.Channel, name: str, *metadata: tuple[str, str]) -> list[str]:
    ask = channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    reply = next(ask(asked, timeout=5, metadata=metadata))
    return [service.name for service in reply.list_services_response.service]


@pytest.mark.parametrize("name", REFLECTION)
def test_reflection_needs_a_token_of_any_permission(
    channel: grpc.Channel, issued: dict[str, tuple[str, str]], name: str
):
    for metadata in ((), (bearing("wrong"),)):
        with pytest.raises(grpc.RpcError) as refused:
            reflect(channel, name, *metadata)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "eagerly.v1.Sentiment" in reflect(channel, name, bearing(issued["other"][0]))


@pytest.mark.parametrize("name", REFLECTION)
def test_reflection_can_be_off(tmp_path: Path, name: str):
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with (
        endpoints.serving(models, tmp_path, reflection=False) as running,
        grpc.insecure_channel(running.address) as opened,
        pytest.raises(grpc.RpcError) as refused,
    ):
        reflect(opened, name)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def eventually(wanted: grpc.StatusCode, channel: grpc.Channel, token: str) -> bool:
    end = time.monotonic() + 10
    while outcome(channel, TYPED, bearing(token))[0] is not wanted:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_tokens_are_added_and_revoked_while_the_endpoint_runs(tmp_path: Path):
    (old, old_line), (new, new_line) = (tokens.issue(name, ["*"]) for name in ("old", "new"))
    file = tmp_path / "tokens"
    file.write_text(old_line)
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with (
        endpoints.serving(models, tmp_path / "metrics", tokens=file) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        assert outcome(opened, TYPED, bearing(old))[0] is grpc.StatusCode.OK
        file.write_text(old_line + new_line)
        assert eventually(grpc.StatusCode.OK, opened, new)
        assert outcome(opened, TYPED, bearing(old))[0] is grpc.StatusCode.OK
        file.write_text(new_line)
        assert eventually(grpc.StatusCode.UNAUTHENTICATED, opened, old)
        assert outcome(opened, TYPED, bearing(new))[0] is grpc.StatusCode.OK


@pytest.mark.parametrize("broken", [b"half", b"name not-a-hash *\n", b"\xff\xfe\n", None])
def test_a_broken_tokens_file_leaves_the_old_in_force_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes | None
):
    token, line = tokens.issue("ann", ["*"])
    file = tmp_path / "tokens"
    file.write_text(line)
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with (
        endpoints.serving(models, tmp_path / "metrics", tokens=file) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        if broken is None:
            file.unlink()
        else:
            file.write_bytes(broken)
        end = time.monotonic() + 10
        while "stays in force" not in caplog.text and time.monotonic() < end:
            assert outcome(opened, TYPED, bearing(token))[0] is grpc.StatusCode.OK
            time.sleep(0.1)
        assert caplog.text.count("stays in force") == 1
        assert outcome(opened, TYPED, bearing(token))[0] is grpc.StatusCode.OK
        file.write_text("# nobody any more\n")
        assert eventually(grpc.StatusCode.UNAUTHENTICATED, opened, token)


def test_a_token_is_compared_with_every_one_there_is_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    lines = [tokens.issue(f"caller-{number}", ["*"]) for number in range(5)]
    listed = tokens.Tokens("--tokens", "".join(line for _, line in lines).encode())
    compared: list[bytes] = []
    real = tokens.hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return real(one, other)

    monkeypatch.setattr(tokens.hmac, "compare_digest", counting)
    for number in range(5):
        grant = listed.find(tokens.digest(lines[number][0]))
        assert grant is not None and grant.name == f"caller-{number}"
    assert listed.find(tokens.digest("wrong")) is None
    assert len(compared) == 6 * 5


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("ann\n", "line 1: it must be a name"),
        ("ann 12ab *\n", "line 1: it must be a name"),
        (f"ann {'0' * 64}\n", "line 1: there is no permission"),
        (f"ann {'0' * 64} Sentiment\n", "'Sentiment' is no permission"),
        (f"# fine\na/b {'0' * 64} *\n", "line 2: it must be a name"),
        (f"ann {'0' * 64} *", "must end in a newline"),
    ],
)
def test_a_bad_tokens_file_is_refused_at_the_start_by_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
):
    file = tmp_path / "tokens"
    file.write_text(line)
    assert cli.main(["serve", "--port", "0", "--metrics-port", "0", "--tokens", str(file)]) == 2
    complaint = capsys.readouterr().err
    assert "--tokens" in complaint
    assert says in complaint
    assert len(complaint.splitlines()) == 1


def test_a_new_token_is_printed_once_and_kept_as_a_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "tokens"
    words = ["--permissions", "eagerly.v1.Sentiment/*", "eagerly.v1.Classifier/Classify", "--tokens", str(file)]
    assert cli.main(["tokens", "new", "web", *words]) == 0
    token = capsys.readouterr().out.strip()
    assert cli.main(["tokens", "new", "batch", *words]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert token not in file.read_text()
    grant = tokens.Tokens("--tokens", file.read_bytes()).find(tokens.digest(token))
    assert grant is not None
    assert grant.name == "web"
    assert grant.permissions == {"eagerly.v1.Sentiment/*", "eagerly.v1.Classifier/Classify"}
    assert len({line.split()[1] for line in file.read_text().splitlines()}) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "`eagerly tokens new NAME --permissions PERMISSION... [--tokens FILE]`"),
        (["new", "a b", "--permissions", "*"], "'a b' is not allowed"),
        (["new", "ann", "--permissions", "Sentiment"], "'Sentiment' is no permission"),
        (["new", "ann", "--permissions"], "no permission"),
        (["new", "ann"], "--permissions"),
        (["new", "ann", "--permissions", "*", "--tokens", "no/such/folder"], "cannot be written"),
    ],
)
def test_a_token_that_cannot_be_made_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["tokens", *words]) == 2
    complaint = capsys.readouterr().err
    assert says in complaint
    assert len(complaint.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
