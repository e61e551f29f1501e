"""The caller's part of a trace: a span for each call, in a program that traces itself with OpenTelemetry.

The client does not depend on OpenTelemetry: a program that has not imported it is not traced, and pays nothing.
"""

import contextlib
import sys
from asyncio import CancelledError
from collections.abc import Iterator

from eagerly.connection import Metadata
from eagerly.contract import CallError


@contextlib.contextmanager
def calling(method: str, metadata: Metadata) -> Iterator[Metadata]:
    """Draws a client span around a call; yields the metadata, with what carries the trace to the endpoint.

    method: with its service, `eagerly.v1.Sentiment/Analyze`. Names follow OpenTelemetry's semantic conventions for RPC.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield metadata
        return
    from opentelemetry import propagate

    attributes = {"rpc.system.name": "grpc", "rpc.method": method}
    with trace.get_tracer("eagerly").start_as_current_span(
        method, kind=trace.SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        try:
            yield (*metadata, *((key.lower(), value) for key, value in carrier.items()))
        except BaseException as error:
            code = _code(error)
            span.set_attribute("error.type", code or type(error).__qualname__)
            span.set_status(trace.StatusCode.ERROR)
            if code:
                span.set_attribute("rpc.response.status_code", code)
            raise
        span.set_attribute("rpc.response.status_code", "OK")


def _code(error: BaseException) -> str:
    """Gives gRPC's name of how a call ended; empty where it came to no end, as on a client that was closed."""
    if isinstance(error, CallError):
        return error.code
    return "CANCELLED" if isinstance(error, CancelledError | KeyboardInterrupt) else ""
