"""A program that traces itself sees its calls, and the endpoint's spans continue its trace."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bare
import pytest
from bare import Request, Response
from collectors import Collector, traced
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from eagerly import spans
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


@pytest.fixture
def silent() -> Iterator[tuple[str, threading.Event]]:
    """The address of a server that answers nothing, and whether it was called."""
    called, over = threading.Event(), threading.Event()

    def answer(request: Request, context: Any) -> Response:
        called.set()
        over.wait(20)
        return Response()

    with bare.serving(answer) as address:
        yield address, called
        over.set()


def ended() -> tuple[dict[str, Any], trace.StatusCode]:
    """The one span's attributes, and whether it failed."""
    (called,) = _KEPT.get_finished_spans()
    return dict(called.attributes or {}), called.status.status_code


def test_a_cancelled_call_is_an_error_of_the_callers_span(silent: tuple[str, threading.Event]):
    async def call() -> None:
        async with AsyncClient(silent[0]) as client:
            task = asyncio.create_task(client.analyze(["one"]))
            assert await asyncio.to_thread(silent[1].wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(call())
    attributes, status = ended()
    assert attributes["error.type"] == attributes["rpc.response.status_code"] == "CANCELLED"
    assert status is trace.StatusCode.ERROR


def test_a_call_that_its_caller_has_no_more_time_for_is_an_error(silent: tuple[str, threading.Event]):
    async def call() -> None:
        async with AsyncClient(silent[0]) as client, asyncio.timeout(0.1):
            await client.analyze(["one"])

    with pytest.raises(TimeoutError):
        asyncio.run(call())
    assert ended()[0]["rpc.response.status_code"] == "CANCELLED"


def test_an_interrupted_call_is_an_error_of_the_callers_span():
    with pytest.raises(KeyboardInterrupt), spans.calling(ANALYZE, ()):
        raise KeyboardInterrupt
    assert ended()[0]["rpc.response.status_code"] == "CANCELLED"


def test_a_call_on_a_closed_client_is_an_error_without_a_code(silent: tuple[str, threading.Event]):
    client = Client(silent[0])
    client.close()
    with pytest.raises(ValueError, match="closed"):
        client.analyze(["one"])
    attributes, status = ended()
    assert attributes["error.type"] == "ValueError" and "rpc.response.status_code" not in attributes
    assert status is trace.StatusCode.ERROR


def test_a_program_without_opentelemetry_does_not_import_it():
    code = "import sys, eagerly.client, eagerly.aio; sys.exit(any('opentelemetry' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
