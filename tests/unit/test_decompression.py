"""A small message that unpacks to a large one is refused at the cap, and its bytes are never in memory."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import endpoints
import grpc
import psutil
import pytest
import registries
import relays

from benchmarks.frames import ACK, DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, Peer, frame, headers, message
from eagerly.client import Client
from eagerly.v1 import sentiment_pb2

ANALYZE = "/eagerly.v1.Sentiment/Analyze"
CAP_BYTES = 1 << 20
BOMB_BYTES = 60 << 20
SLACK_BYTES = 8 << 20
WINDOW_BYTES = 65_535
"""What a new stream may carry at once."""
STATUS = b"\x0bgrpc-status"
"""The name of the header in HPACK, as gRPC writes it when it is new to a connection; then comes the value."""


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[relays.Relay]:
    """A relay to an endpoint that takes compressed requests."""
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    options = {"accept_compressed": True, "max_message_bytes": CAP_BYTES}
    with endpoints.serving(models, tmp_path, **options) as running, relays.Relay(running.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A message of zeros, in a thousandth of its bytes; made in pieces, as this is the server's process too."""
    squeezed, zeros = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(1 << 20)
    packed = [squeezed.compress(zeros) for _ in range(BOMB_BYTES // len(zeros))]
    body = message(b"".join([*packed, squeezed.flush()]), compressed=True)
    assert len(body) < WINDOW_BYTES
    return body


def send(peer: Peer, body: bytes) -> None:
    at = peer.stream()
    peer.send(frame(HEADERS, END_HEADERS, at, headers(ANALYZE, grpc_encoding="gzip")))
    parts = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
    for part in parts:
        peer.send(frame(DATA, END_STREAM if part is parts[-1] else 0, at, part))


def peak_bytes() -> int:
    """The most memory that this process has held since it was last told to forget."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def ended(line: relays.Line) -> bytes:
    """The header blocks with which the server has ended calls."""
    return b"".join(one.payload for one in line.sent(HEADERS) if one.flags & END_STREAM)


def test_a_bomb_is_resource_exhausted_and_never_in_memory(relay: relays.Relay, bomb: bytes):
    peer = Peer(relay.address)
    peer.send(frame(SETTINGS, ACK, 0))
    assert registries.eventually(lambda: relay.lines and relay.lines[0].answered, 5)
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    send(peer, bomb)
    assert registries.eventually(lambda: ended(relay.lines[0]), 10)
    grown = peak_bytes() - before
    assert STATUS + b"\x018" in ended(relay.lines[0]), "8 is RESOURCE_EXHAUSTED"
    assert grown < CAP_BYTES + SLACK_BYTES
    peer.close()


def test_the_next_call_is_answered(relay: relays.Relay, bomb: bytes):
    peer = Peer(relay.address)
    peer.send(frame(SETTINGS, ACK, 0))
    send(peer, bomb)
    assert registries.eventually(lambda: relay.lines and ended(relay.lines[0]), 10)
    text = message(sentiment_pb2.AnalyzeRequest(texts=["same connection"]).SerializeToString())
    at = peer.stream()
    peer.send(frame(HEADERS, END_HEADERS, at, headers(ANALYZE)) + frame(DATA, END_STREAM, at, text))
    assert registries.eventually(
        within_s=10, met=lambda: any(b"same connection" in one.payload for one in relay.lines[0].sent(DATA))
    )
    peer.close()
    with Client(relay.address) as client:
        assert client.analyze(["another connection"])[0].labels[0].label == "another connection"


def test_what_fits_once_it_is_unpacked_is_answered_and_a_little_more_is_refused(relay: relays.Relay):
    texts = ["a" * 1000] * (CAP_BYTES // 1003)
    with grpc.insecure_channel(relay.address, compression=grpc.Compression.Gzip) as channel:
        call = channel.unary_unary(ANALYZE, sentiment_pb2.AnalyzeRequest.SerializeToString)
        assert call(sentiment_pb2.AnalyzeRequest(texts=texts[:1000]), timeout=10)
        with pytest.raises(grpc.RpcError) as refused:
            call(sentiment_pb2.AnalyzeRequest(texts=[*texts, "a" * 1000]), timeout=10)
        assert call(sentiment_pb2.AnalyzeRequest(texts=["and again"]), timeout=10)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_endpoint_that_takes_nothing_compressed_says_unimplemented(tmp_path: Path):
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with (
        endpoints.serving(models, tmp_path) as running,
        grpc.insecure_channel(running.address, compression=grpc.Compression.Gzip) as channel,
    ):
        call = channel.unary_unary(ANALYZE, sentiment_pb2.AnalyzeRequest.SerializeToString)
        with pytest.raises(grpc.RpcError) as refused:
            call(sentiment_pb2.AnalyzeRequest(texts=["fine"]), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
