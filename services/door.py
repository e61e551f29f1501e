"""The door of every RPC: who may enter, until when, what it is told when it fails, and what is noted of it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2
from grpc import aio

from services import errors, metrics, status, visits
from services.access_log import AccessLog
from services.options import Options
from services.room import Room
from services.tracing import Traces

log = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]
Work = Callable[[bytes, float, Context], Awaitable[bytes]]
"""(the request's bytes, when the caller gives up on the clock of time.monotonic(), the call) to the reply's bytes."""
Answer = Callable[[bytes, Context], Awaitable[bytes]]
Metadata = Mapping[str, str | bytes]
"""What a caller sent with a call; of keys that were sent twice, the first."""
Guard = Callable[[str, Metadata], str | None]
"""Says who calls, or raises Unauthenticated or Forbidden: (the path of the RPC, what the caller sent with the call)."""

_sent: ContextVar[Any] = ContextVar("sent", default=None)
"""The metadata of the call that this task answers, as gRPC read it to find the RPC; asked again, it would read anew."""

_NOTHING: Metadata = {}
_EARLY_S = 0.05
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Keepers:
    """What stands at every door of an endpoint; each may be None, which costs nothing."""

    figures: metrics.Metrics
    guard: Guard | None = None
    certified: bool = False
    """Whether callers bring certificates."""
    access_log: AccessLog | None = None
    traces: Traces | None = None
    room: Room = field(default_factory=lambda: Room(Options.max_held_bytes))
    request_ids: visits.RequestIds = field(default_factory=visits.RequestIds)

    @classmethod
    def of(cls, options: Options, figures: metrics.Metrics, guard: Guard | None) -> "Keepers":
        """Opens the access log and traces that are asked for; raises ValueError when the log's file cannot be."""
        access_log = AccessLog(options.access_log, options.log_payloads, figures) if options.access_log else None
        traces = Traces(options.otlp_endpoint, options.trace_ratio) if options.otlp_endpoint else None
        room = Room(options.max_held_bytes)
        return cls(figures, guard, options.client_ca is not None, access_log, traces, room)

    def close(self) -> None:
        """Writes and sends what is left of log and traces."""
        for writer in (self.access_log, self.traces):
            if writer is not None:
                writer.close()


class Door:
    """Answers the calls of one RPC with its work; every error leaves as a status of status.py."""

    def __init__(self, path: str, labels: tuple[str, str], work: Work, keepers: Keepers) -> None:
        """Takes the RPC's path and the service and method that metrics call it by; for the running event loop.

        path: as on the wire, `/eagerly.v1.Sentiment/Analyze`.
        """
        self.path = path
        self._name = path[1:]
        self._work = work
        self._guard = keepers.guard
        self._keepers = keepers
        self._room = keepers.room
        self._watched = keepers.access_log is not None or keepers.traces is not None
        self._asks = self._watched or self._guard is not None
        self.figures = Figures(*labels, keepers.figures)

    async def answer(self, body: bytes, context: Context) -> bytes:
        """Answers a call."""
        started = time.monotonic()
        code, reply, held = code_pb2.UNKNOWN, b"", 0
        self.figures.begin()
        left = context.time_remaining()
        sent = metadata(context) if self._asks else _NOTHING
        visit = self._welcome(body, left, sent, context) if self._watched else None
        try:
            if self._guard is not None:
                principal = self._guard(self.path, sent)
                if visit is not None:
                    visit.principal = principal
            self._room.enter(len(body))
            held = len(body)
            reply = await self._work(body, float("inf") if left is None else started + left, context)
            code = code_pb2.OK
            if visit is not None:
                visit.sign(context, failed=False)
            return reply
        except errors.ServiceError as error:
            refusal = status.of(error)
            code = refusal.code
            return await _end(refusal, context)
        except asyncio.CancelledError:
            code = _code_of_cancelled(started, left)
            raise
        except Exception:
            failure = errors.Failure(visit and visit.request_id)
            log.exception("request %s failed", failure.request_id)
            code = code_pb2.INTERNAL
            return await _end(status.of(failure), context)
        finally:
            self._room.leave(held)
            seconds = time.monotonic() - started
            self.figures.end(code, seconds)
            if visit is not None:
                self._note(visit, code, seconds, body, reply)

    def _welcome(self, body: bytes, left: float | None, sent: Metadata, context: Context) -> visits.Visit:
        """Begins to note what the access log and traces tell of a call."""
        keepers = self._keepers
        request_id, is_named = keepers.request_ids.of(sent.get(visits.REQUEST_ID))
        visit = visits.Visit(request_id, is_named, context.peer(), len(body), left)
        if keepers.certified:
            visit.principal = _holder(context)
        if keepers.traces is not None:
            visit.span = keepers.traces.begin(self._name, sent)
        visits.current.set(visit)
        return visit

    def _note(self, visit: visits.Visit, code: int, seconds: float, request: bytes, reply: bytes) -> None:
        """Hands a call that has ended to the access log and traces, whose mistakes must not take its reply."""
        try:
            if visit.span is not None:
                assert self._keepers.traces is not None
                self._keepers.traces.end(visit, code)
        except Exception:
            log.exception("the trace of request %s could not be noted", visit.request_id)
        try:
            if self._keepers.access_log is not None:
                self._keepers.access_log.add(self._name, visit, code, seconds, request, reply)
        except Exception:
            log.exception("the line of request %s could not be noted", visit.request_id)


class Doors(grpc.GenericRpcHandler):
    """Finds the door of a call by its path, and keeps at hand what the caller sent."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        """Takes what answers each RPC, by its path."""
        self._handlers = {path: grpc.unary_unary_rpc_method_handler(answer) for path, answer in answers.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Gives what answers a call; None when it is for another handler. Runs in the task of the call."""
        handler = self._handlers.get(handler_call_details.method)
        if handler is not None:
            _sent.set(handler_call_details.invocation_metadata)
        return handler


def metadata(context: Context) -> Metadata:
    """Reads what the caller sent with the call that this task answers."""
    sent = _sent.get()
    if sent is None:
        sent = context.invocation_metadata() or ()
    return dict(reversed(tuple(sent)))


def _code_of_cancelled(started: float, left: float | None) -> int:
    """Tells a call that its deadline has ended, which gRPC cancels too, from one that its caller has given up.

    started: on the clock of time.monotonic(). left: seconds until the deadline, as the server was told: callers round
    them up by as much as a hundredth, and say themselves that the time has come.
    """
    if left is None:
        return code_pb2.CANCELLED
    early_s = min(_EARLY_S + left / 100, left / 4)
    is_due = time.monotonic() - started >= left - early_s
    return code_pb2.DEADLINE_EXCEEDED if is_due else code_pb2.CANCELLED


def _holder(context: Context) -> str | None:
    """Reads the first name in the caller's certificate, which TLS has verified."""
    for name in context.peer_identities() or ():
        return name.decode(errors="replace")
    return None


async def _end(refusal: status_pb2.Status, context: Context) -> bytes:
    """Gives a call the status that it ends with, once this reply is returned, an empty one that no unary caller sees.

    What abort() raises holds the call, its frames and its request, and the call holds it: they would all wait for the
    collector of cycles, which looks at what is old but once a while. A call to which something was sent is not made
    again, though, so one that is refused for now is aborted: clients retry UNAVAILABLE by the service config.
    """
    visit = visits.current.get()
    if visit is not None:
        visit.sign(context, failed=True)
    if refusal.code == code_pb2.UNAVAILABLE:
        await refuse(refusal, context)
    context.set_code(_GRPC_CODES[refusal.code])
    context.set_details(refusal.message)
    context.set_trailing_metadata(_with_details(refusal, context))
    return b""


async def refuse(refusal: status_pb2.Status, context: Context) -> bytes:
    """Ends a call, also one of a stream, from wherever it is; raises what gRPC makes of that."""
    await context.abort(_GRPC_CODES[refusal.code], refusal.message, _with_details(refusal, context))
    raise AssertionError("abort() raises")


def _with_details(refusal: status_pb2.Status, context: Context) -> tuple[tuple[str, str | bytes], ...]:
    """Adds a status's details to the trailing metadata that a call has already."""
    return (*(context.trailing_metadata() or ()), ("grpc-status-details-bin", refusal.SerializeToString()))


class Figures:
    """The metrics of one RPC, opened once.

    What a turn of the loop brings is written at its end, once replies are on their way: a replica may die.
    """

    def __init__(self, service: str, method: str, figures: metrics.Metrics) -> None:
        """Opens every metric of the table, so that all are present from the start."""
        self._figures = figures
        self._labels = (service, method)
        self._loop = asyncio.get_running_loop()
        self._codes: dict[int, int] = {}
        self._seconds: list[float] = []
        self._in_flight_count = 0
        self._is_due = False
        self.items: dict[int, int] = {}
        """Items of answered calls that are still to be counted, by their code."""
        self._opened: dict[tuple[str, int], metrics.Value] = {}
        self._in_flight = figures.value(metrics.IN_FLIGHT, service, method)
        self._duration = figures.histogram(metrics.REQUEST_SECONDS, service, method)
        self._count(metrics.REQUESTS, code_pb2.OK, 0)
        self._count(metrics.ITEMS, code_pb2.OK, 0)

    def begin(self) -> None:
        """Notes that a call has come in."""
        self._in_flight_count += 1
        self._write_soon()

    def end(self, code: int, seconds: float) -> None:
        """Notes that a call has ended."""
        self._in_flight_count -= 1
        self._codes[code] = self._codes.get(code, 0) + 1
        self._seconds.append(seconds)
        self._write_soon()

    def add_items(self, codes: dict[int, int]) -> None:
        """Notes the items of an answered call, by their code."""
        for code, count in codes.items():
            self.items[code] = self.items.get(code, 0) + count

    def _write_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_due = False
        self._in_flight.set(self._in_flight_count)
        if not self._seconds:
            return
        codes, seconds, items = self._codes, self._seconds, self.items
        self._codes, self._seconds, self.items = {}, [], {}
        for code, count in codes.items():
            self._count(metrics.REQUESTS, code, count)
        for code, count in items.items():
            self._count(metrics.ITEMS, code, count)
        self._duration.observe(seconds)

    def _count(self, metric: metrics.Metric, code: int, amount: int) -> None:
        value = self._opened.get((metric.name, code))
        if value is None:
            value = self._opened[metric.name, code] = self._figures.value(metric, *self._labels, status.name(code))
        value.add(amount)
