"""One RPC of one service with its model: from the request's bytes to the reply's, with deadline, limits and metrics.

Handlers take bytes and parse them themselves: grpcio would answer malformed bytes with UNKNOWN and the name of a
Python exception.
"""

import asyncio
import logging
import time
from collections import Counter
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2
from grpc import aio

from services import errors, metrics, status
from services.batching import Batch, Batcher
from services.models import Loaded
from services.options import Options

log = logging.getLogger(__name__)

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Rpc:
    """Answers the calls of one service."""

    def __init__(self, loaded: Loaded, options: Options, figures: metrics.Metrics) -> None:
        """Starts the model's thread; must be called on the running event loop."""
        self.service = loaded.service
        self.name = f"{loaded.service.method.containing_service.full_name}/{loaded.service.method.name}"
        self._most_items = options.max_items
        self._warm_count = min(options.max_batch, options.max_waiting)
        self._trailers = loaded.trailers
        self._figures = Figures(loaded, figures)
        self.batcher = Batcher(
            loaded.model.predict,
            name=loaded.service.name,
            max_batch=options.max_batch,
            max_waiting=options.max_waiting,
        )
        self._examples = loaded.model.examples()

    async def warm_up(self) -> None:
        """Computes the model's own examples, alone and as a full batch, before the first caller and the metrics do.

        Raises ValueError when the model refuses them.
        """
        full = (self._examples * self._warm_count)[: self._warm_count]
        for inputs in (full[:1], full):
            for answer in await self.batcher.submit(inputs):
                if isinstance(answer, Exception):
                    raise ValueError(f"the model of {self.service.name} refuses its own examples: {answer}")
        self.batcher.observe = self._figures.batch

    async def answer(self, body: bytes, context: "aio.ServicerContext[bytes, bytes]") -> bytes:
        """Answers a call; every error leaves as a status of status.py."""
        started = time.monotonic()
        code = code_pb2.UNKNOWN
        self._figures.begin()
        try:
            context.set_trailing_metadata(self._trailers)
            reply = await self._reply(body, _deadline(context, started))
            code = code_pb2.OK
            return reply
        except errors.ServiceError as error:
            refusal = status.of(error)
            code = refusal.code
            return await self._refuse(refusal, context)
        except asyncio.CancelledError:
            code = code_pb2.CANCELLED
            raise
        except Exception:
            failure = errors.Failure()
            log.exception("request %s failed", failure.request_id)
            code = code_pb2.INTERNAL
            return await self._refuse(status.of(failure), context)
        finally:
            self._figures.call(code, time.monotonic() - started)

    async def _reply(self, body: bytes, deadline: float) -> bytes:
        """Parses, predicts what can be predicted, and writes the reply."""
        service = self.service
        request = _parse(service.request, body)
        inputs = service.decode_items(request, self._most_items)
        good = [item for item in inputs if not isinstance(item, errors.BadInput)]
        answers = await self.batcher.submit(good, deadline) if good else []
        if len(good) < len(inputs):
            predictions = iter(answers)
            answers = [item if isinstance(item, errors.BadInput) else next(predictions) for item in inputs]
        reply, codes = service.encode_results(request, answers)
        self._figures.items.update(codes)
        return reply

    async def _refuse(self, refusal: status_pb2.Status, context: "aio.ServicerContext[bytes, bytes]") -> bytes:
        """Ends the call with a status and its details."""
        details = ("grpc-status-details-bin", refusal.SerializeToString())
        await context.abort(_GRPC_CODES[refusal.code], refusal.message, (*self._trailers, details))
        raise AssertionError("abort() raises")


class Figures:
    """The metrics of one RPC, opened once; calls are counted together, once their replies are on their way."""

    def __init__(self, loaded: Loaded, figures: metrics.Metrics) -> None:
        """Opens every metric of the table, so that all are present from the start."""
        service, method = loaded.service.name, loaded.service.method.name
        self._figures = figures
        self._labels = (service, method)
        self._loop = asyncio.get_running_loop()
        self._ended: list[tuple[int, float]] = []
        self._in_flight_count = 0
        self.items: Counter[int] = Counter()
        """Items of answered calls that are still to be counted, by their code."""
        self._opened: dict[tuple[str, int], metrics.Value] = {}
        self._in_flight = figures.value(metrics.IN_FLIGHT, service, method)
        self._duration = figures.histogram(metrics.REQUEST_SECONDS, service, method)
        self._queue = figures.histogram(metrics.QUEUE_SECONDS, service)
        self._compute = figures.histogram(metrics.COMPUTE_SECONDS, service)
        self._batch_size = figures.histogram(metrics.BATCH_SIZE, service)
        figures.value(metrics.MODEL_INFO, service, str(loaded.version), loaded.run_id, loaded.digest).set(1)
        self._count(metrics.REQUESTS, code_pb2.OK, 0)
        self._count(metrics.ITEMS, code_pb2.OK, 0)

    def begin(self) -> None:
        """Notes that a call has come in."""
        self._in_flight_count += 1
        self._in_flight.set(self._in_flight_count)

    def call(self, code: int, seconds: float) -> None:
        """Notes that a call has ended, to be counted with the others of this turn of the loop."""
        self._in_flight_count -= 1
        if not self._ended:
            self._loop.call_soon(self._flush)
        self._ended.append((code, seconds))

    def _flush(self) -> None:
        ended, self._ended = self._ended, []
        items, self.items = self.items, Counter()
        for code, count in Counter(code for code, _ in ended).items():
            self._count(metrics.REQUESTS, code, count)
        for code, count in items.items():
            self._count(metrics.ITEMS, code, count)
        self._duration.observe([seconds for _, seconds in ended])
        self._in_flight.set(self._in_flight_count)

    def batch(self, batch: Batch) -> None:
        """Counts a batch that has been computed."""
        self._queue.observe([batch.started - call.submitted for call in batch.calls])
        self._compute.observe([batch.compute_s])
        self._batch_size.observe([batch.size])

    def _count(self, metric: metrics.Metric, code: int, amount: int) -> None:
        value = self._opened.get((metric.name, code))
        if value is None:
            value = self._opened[metric.name, code] = self._figures.value(metric, *self._labels, status.name(code))
        value.add(amount)


def _parse(kind: Any, body: bytes) -> Any:
    """Reads a message of a kind; raises BadInput for bytes that are none, or hold text that is not UTF-8."""
    try:
        return kind.FromString(body)
    except (DecodeError, UnicodeDecodeError):
        problem = f"the request is no valid {kind.DESCRIPTOR.full_name}: malformed bytes, or text that is not UTF-8"
        raise errors.BadInput("", problem) from None


def _deadline(context: "aio.ServicerContext[bytes, bytes]", now: float) -> float:
    """When the caller gives up, on the clock of time.monotonic()."""
    left = context.time_remaining()
    return float("inf") if left is None else now + left
