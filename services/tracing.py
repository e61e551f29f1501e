"""Traces of calls by OpenTelemetry: from the caller's span through the queue to the batch that the model computed.

Whether a call is traced is decided first, by its caller's `traceparent` or else by chance, so that the others cost next
to nothing. A traced call has a server span with two children, its time in the queue and the computation; the batch is
a trace of its own, linked to the traced calls in it, because it belongs to many. Spans leave over OTLP in the
background from a bounded queue. OpenTelemetry's own environment variables, such as OTEL_EXPORTER_OTLP_HEADERS and
OTEL_RESOURCE_ATTRIBUTES, hold.
"""

import random
import re
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from services import status
from services.batches import Batch
from services.visits import Visit

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
"""The semantic conventions that names of attributes follow."""
FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that count as errors of the server; others are the caller's."""
PROVENANCE = {
    "eagerly-model": "eagerly.model.name",
    "eagerly-model-version": "eagerly.model.version",
    "eagerly-run-id": "eagerly.model.run_id",
    "eagerly-model-digest": "eagerly.model.digest",
}
"""The attribute of each piece of trailing metadata."""
MOST_PER_S = 100
"""Calls traced in a second by one replica; a caller that has every call traced must not slow others down."""
EXPORT_TIMEOUT_S, CLOSE_S = 3.0, 3.0
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?")


class Traces:
    """Draws the spans of one endpoint; all methods are for the event loop's thread."""

    def __init__(self, endpoint: str, ratio: float) -> None:
        """Starts the exporter's thread.

        endpoint: a collector's URL for OTLP over HTTP; without a path, /v1/traces. ratio: the share of calls that are
        traced among those whose callers have not decided.
        """
        from opentelemetry import context, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self._api = trace
        self._root = context.Context()
        self._ratio = ratio
        self._second, self._second_count = 0, 0
        path = "" if urlsplit(endpoint).path.strip("/") else "/v1/traces"
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + path, timeout=EXPORT_TIMEOUT_S)
        resource = Resource.create().merge(Resource({"service.name": "eagerly", "service.version": version("eagerly")}))
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("eagerly", version("eagerly"), schema_url=SCHEMA)

    def begin(self, method: str, metadata: Mapping[str, Any]) -> Any:
        """Starts the server span of a call that is to be traced; None for the others.

        method: with its service, as `eagerly.v1.Sentiment/Analyze`. metadata: what the caller sent.
        """
        given = metadata.get("traceparent")
        parent = _TRACEPARENT.fullmatch(given) if isinstance(given, str) else None
        wanted = int(parent[1], 16) & 1 if parent else random.random() < self._ratio
        if not wanted or not self._has_room():
            return None
        above = None
        if parent:
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            above = TraceContextTextMapPropagator().extract(metadata)
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        span = self._tracer.start_span(method, above, self._api.SpanKind.SERVER, attributes)
        return span if span.is_recording() else None  # OTEL_SDK_DISABLED has none recorded

    def end(self, visit: Visit, code: int) -> None:
        """Ends the server span of a call, with what became known of the call."""
        now_ns = time.time_ns()
        span, name = visit.span, status.name(code)
        span.set_attribute("rpc.response.status_code", name)
        span.set_attribute("eagerly.request_id", visit.request_id)
        span.set_attribute("eagerly.item_count", visit.item_count)
        span.set_attributes({PROVENANCE[key]: value for key, value in visit.provenance if key in PROVENANCE})
        if name in FAULTS:
            span.set_attribute("error.type", name)
            span.set_status(self._api.StatusCode.ERROR)
        if visit.waited is not None and visit.batch is not None:
            self._children(span, visit.waited[0], visit.batch, now_ns)
            visit.batch = None
        span.end(now_ns)

    def close(self) -> None:
        """Sends what is left, waiting for a collector that does not answer no longer than CLOSE_S."""
        last = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        last.start()
        last.join(CLOSE_S)

    def _has_room(self) -> bool:
        """Counts the traced calls of this second."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._second_count = second, 0
        self._second_count += 1
        return self._second_count <= MOST_PER_S

    def _children(self, span: Any, submitted: float, batch: Batch, now_ns: int) -> None:
        """Draws where the time of a computed call went: first the queue, then the batch.

        Two clocks that are read one after the other differ by microseconds, hence the bounds.
        """
        since_ns = now_ns - round(time.monotonic() * 1e9)
        moments = (submitted, batch.started, batch.started + batch.compute_s)
        submitted_ns, started_ns, ended_ns = (
            min(max(since_ns + round(moment * 1e9), span.start_time), now_ns) for moment in moments
        )
        if batch.span is None:
            batch.span = self._batch(batch, started_ns, ended_ns)
        inside = self._api.set_span_in_context(span)
        self._tracer.start_span("queue", inside, start_time=submitted_ns).end(started_ns)
        link = self._api.Link(batch.span.get_span_context())
        self._tracer.start_span("compute", inside, links=[link], start_time=started_ns).end(ended_ns)

    def _batch(self, batch: Batch, started_ns: int, ended_ns: int) -> Any:
        """Draws a batch, linked to the traced calls in it; once for all of them."""
        spans = [call.visit.span for call in batch.calls if call.visit is not None and call.visit.span is not None]
        links = [self._api.Link(span.get_span_context()) for span in spans]
        counts = {"eagerly.batch.item_count": batch.size, "eagerly.batch.call_count": len(batch.calls)}
        span = self._tracer.start_span("batch", self._root, attributes=counts, links=links, start_time=started_ns)
        if batch.failure is not None:
            span.set_attribute("error.type", type(batch.failure).__name__)
            span.set_status(self._api.StatusCode.ERROR)
        span.end(ended_ns)
        return span
