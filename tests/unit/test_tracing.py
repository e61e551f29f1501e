"""Traces, as a collector receives them: real spans over real OTLP."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import endpoints
import grpc
import pytest
from collectors import Collector, traced
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from eagerly.v1 import sentiment_pb2
from services import tracing

ANALYZE = "/eagerly.v1.Sentiment/Analyze"
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def call(endpoint: endpoints.Endpoint, *words: str, flags: str = "", state: str = "") -> Any:
    """Makes a call in a caller's trace, when flags are given; returns it or its error."""
    metadata = [("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-{flags}")] if flags else []
    metadata += [("tracestate", state), ("x-request-id", "order-17")] if state else []
    with grpc.insecure_channel(endpoint.address) as channel:
        request = sentiment_pb2.AnalyzeRequest(texts=words).SerializeToString()
        try:
            return channel.unary_unary(ANALYZE).with_call(request, timeout=10, metadata=tuple(metadata))[1]
        except grpc.RpcError as error:
            return error


def attributes(span: Span) -> dict[str, Any]:
    values = {one.key: one.value for one in span.attributes}
    return {key: getattr(value, value.WhichOneof("value") or "") for key, value in values.items()}


def test_a_callers_trace_goes_on_through_queue_and_batch(tmp_path: Path, collector: Collector):
    with traced(tmp_path, collector.url, trace_ratio=0) as endpoint:
        call(endpoint, "one", "two", flags="01", state="vendor=x")
    (server,), (queue,), (compute,), (batch,) = (
        collector.named(name) for name in ("eagerly.v1.Sentiment/Analyze", "queue", "compute", "batch")
    )
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert server.kind == Span.SPAN_KIND_SERVER
    assert server.trace_state == "vendor=x"
    assert {one.trace_id.hex() for one in (queue, compute)} == {TRACE_ID}
    assert {one.parent_span_id for one in (queue, compute)} == {server.span_id}
    assert batch.trace_id.hex() != TRACE_ID
    assert not batch.parent_span_id
    assert [link.span_id for link in batch.links] == [server.span_id]
    assert [link.span_id for link in compute.links] == [batch.span_id]
    assert attributes(batch) == {"eagerly.batch.item_count": 2, "eagerly.batch.call_count": 1}
    times = (queue.start_time_unix_nano, queue.end_time_unix_nano, compute.end_time_unix_nano)
    assert server.start_time_unix_nano <= times[0] <= times[1] == compute.start_time_unix_nano <= times[2]
    assert times[2] <= server.end_time_unix_nano
    assert attributes(server) == {
        "rpc.system.name": "grpc",
        "rpc.method": "eagerly.v1.Sentiment/Analyze",
        "rpc.response.status_code": "OK",
        "eagerly.request_id": "order-17",
        "eagerly.item_count": 2,
        "eagerly.model.name": "sentiment",
        "eagerly.model.version": "7",
        "eagerly.model.digest": "0123abcd" * 8,
        "eagerly.model.run_id": "run-of-sentiment",
    }
    assert collector.resource["service.name"] == "eagerly"
    assert collector.schema == tracing.SCHEMA


def test_one_batch_is_linked_to_every_call_in_it(tmp_path: Path, collector: Collector):
    model = endpoints.Gate()
    with traced(tmp_path, collector.url, model, trace_ratio=1) as endpoint, ThreadPoolExecutor(4) as pool:
        model.computing.clear()
        model.open.clear()
        first = pool.submit(call, endpoint, "holds the model")
        model.computing.wait(5)
        others = [pool.submit(call, endpoint, str(number)) for number in range(3)]
        until = time.monotonic() + 5
        while endpoint.server.waiting_count < 3 and time.monotonic() < until:
            time.sleep(0.01)
        model.open.set()
        for one in (first, *others):
            one.result()
    big = max(collector.named("batch"), key=lambda span: len(span.links))
    calls = {span.span_id: span for span in collector.named("eagerly.v1.Sentiment/Analyze")}
    assert len(big.links) == 3
    assert {link.span_id for link in big.links} <= set(calls)
    assert len({calls[link.span_id].trace_id for link in big.links}) == 3
    linked = [span for span in collector.named("compute") if span.links[0].span_id == big.span_id]
    assert {span.parent_span_id for span in linked} == {link.span_id for link in big.links}


def test_a_caller_that_decided_against_a_trace_has_none(tmp_path: Path, collector: Collector):
    with traced(tmp_path, collector.url, trace_ratio=1) as endpoint:
        call(endpoint, "one", flags="00")
    assert collector.spans == []


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (1.0, 20)])
def test_calls_without_a_parent_are_traced_by_the_ratio(tmp_path: Path, collector: Collector, ratio: float, count: int):
    with traced(tmp_path, collector.url, trace_ratio=ratio) as endpoint:
        for _ in range(20):
            call(endpoint, "one")
    assert len(collector.named("eagerly.v1.Sentiment/Analyze")) == count


@pytest.mark.parametrize("parent", ["", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff" * 500])
def test_a_malformed_parent_is_no_parent(parent: str):
    traces = tracing.Traces("http://127.0.0.1:9", 0.0)
    assert traces.begin("a/b", {"traceparent": parent}) is None
    traces.close()


def test_a_refused_call_is_no_error_of_the_servers_and_a_failed_one_is(tmp_path: Path, collector: Collector):
    with traced(tmp_path, collector.url, trace_ratio=1) as endpoint:
        call(endpoint)
        failed = call(endpoint, "explode")
    refused, broken = collector.named("eagerly.v1.Sentiment/Analyze")
    assert attributes(refused)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert attributes(broken)["rpc.response.status_code"] == attributes(broken)["error.type"] == "INTERNAL"
    assert broken.status.code == Status.STATUS_CODE_ERROR
    assert attributes(broken)["eagerly.request_id"] in failed.details()
    (batch,) = collector.named("batch")
    assert batch.status.code == Status.STATUS_CODE_ERROR
    assert "secret" not in str(batch)


def test_a_flood_of_sampled_calls_is_traced_in_part(collector: Collector, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    traces = tracing.Traces(collector.url, 0.0)
    parent = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
    begun = [traces.begin("a/b", parent) for _ in range(3 * tracing.MOST_PER_S)]
    assert sum(span is not None for span in begun) == tracing.MOST_PER_S
    monkeypatch.undo()
    traces.close()


def test_a_collector_that_is_down_or_hangs_changes_no_call_and_holds_nothing_up(tmp_path: Path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for url in ("http://127.0.0.1:9", f"http://127.0.0.1:{silent.getsockname()[1]}"):
            with traced(tmp_path, url, trace_ratio=1) as endpoint:
                for _ in range(30):
                    assert call(endpoint, "one", flags="01").code() is grpc.StatusCode.OK
                began = time.monotonic()
            assert time.monotonic() - began < tracing.CLOSE_S + 2


def test_the_log_names_the_trace(tmp_path: Path, collector: Collector):
    path = tmp_path / "log"
    with traced(tmp_path / "metrics", collector.url, trace_ratio=0, access_log=str(path)) as endpoint:
        call(endpoint, "one", flags="01")
    assert f'"trace_id":"{TRACE_ID}"' in path.read_text()


def test_traces_that_opentelemetry_is_told_not_to_draw_cost_no_reply_and_no_line(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    path = tmp_path / "log"
    with traced(tmp_path / "metrics", collector.url, trace_ratio=1, access_log=str(path)) as endpoint:
        assert call(endpoint, "one", flags="01").code() is grpc.StatusCode.OK
    assert '"code":"OK"' in path.read_text()
    assert not collector.spans


def test_a_call_whose_trace_fails_has_its_reply_and_its_line_in_the_log(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def stumble(*given: object) -> None:
        raise RuntimeError("no clock")

    monkeypatch.setattr(tracing.Traces, "end", stumble)
    path = tmp_path / "log"
    with traced(tmp_path / "metrics", collector.url, trace_ratio=1, access_log=str(path)) as endpoint:
        assert call(endpoint, "one", flags="01").code() is grpc.StatusCode.OK
    assert "could not be noted" in caplog.text
    assert path.read_text().count('"code":"OK"') == 1
