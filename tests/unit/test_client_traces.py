"""A program that traces itself sees its calls, and the endpoint's spans continue its trace."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from collectors import Collector, traced
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from eagerly.aio import AsyncClient
from eagerly.client import CallError, Client

ANALYZE = "eagerly.v1.Sentiment/Analyze"
_KEPT = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def provider() -> None:
    """OpenTelemetry takes one provider a process."""
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(_KEPT))
    trace.set_tracer_provider(made)


@pytest.fixture(autouse=True)
def kept() -> None:
    """Forgets the spans of the test before."""
    _KEPT.clear()


def test_the_endpoints_spans_continue_the_callers_trace(tmp_path: Path, collector: Collector):
    tracer = trace.get_tracer("test")
    with traced(tmp_path, collector.url, trace_ratio=0) as endpoint, Client(endpoint.address) as client:
        order = tracer.start_span("order")
        with trace.use_span(order, end_on_exit=True):
            client.analyze(["one"])
    (called,) = [span for span in _KEPT.get_finished_spans() if span.name == ANALYZE]
    assert called.kind is trace.SpanKind.CLIENT
    assert called.parent is not None and called.parent.span_id == order.get_span_context().span_id
    assert dict(called.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": ANALYZE,
        "rpc.response.status_code": "OK",
    }
    (server,) = collector.named(ANALYZE)
    assert int.from_bytes(server.trace_id) == order.get_span_context().trace_id
    assert called.context is not None
    assert int.from_bytes(server.parent_span_id) == called.context.span_id


def test_the_async_client_draws_the_same(tmp_path: Path, collector: Collector):
    async def call(address: str) -> None:
        async with AsyncClient(address) as client:
            await client.analyze(["one"])

    with traced(tmp_path, collector.url, trace_ratio=0) as endpoint:
        asyncio.run(call(endpoint.address))
    (called,) = _KEPT.get_finished_spans()
    (server,) = collector.named(ANALYZE)
    assert called.context is not None
    assert int.from_bytes(server.parent_span_id) == called.context.span_id


def test_a_refused_call_is_an_error_of_the_callers_span(tmp_path: Path, collector: Collector):
    refused = pytest.raises(CallError)
    with traced(tmp_path, collector.url, trace_ratio=0) as endpoint, Client(endpoint.address) as client, refused:
        client.analyze([])
    (called,) = _KEPT.get_finished_spans()
    assert called.attributes is not None
    assert called.attributes["error.type"] == called.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert called.status.status_code is trace.StatusCode.ERROR


def test_a_program_without_opentelemetry_does_not_import_it():
    code = "import sys, eagerly.client, eagerly.aio; sys.exit(any('opentelemetry' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
