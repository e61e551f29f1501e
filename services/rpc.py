"""One typed RPC: from the request's bytes to the reply's, by way of its model's slot.

Handlers take bytes and parse them themselves: grpcio would answer malformed bytes with UNKNOWN and the name of a
Python exception.
"""

from typing import Any

from google.protobuf.message import DecodeError

from services import errors, metrics, visits
from services.door import Context, Door, Keepers
from services.options import Options
from services.reasons import Reason
from services.service import Service
from services.slots import Slot


class Rpc:
    """Answers the calls of one service with the model in its slot."""

    def __init__(self, service: Service, slot: Slot, options: Options, keepers: Keepers) -> None:
        """Puts a door before the RPC; must be called on the running event loop."""
        self.service = service
        self._slot = slot
        self._most_items = options.max_items
        self._least = options.abstain_below if service.abstains else 0.0
        if service.abstains:
            self._abstained = keepers.figures.value(metrics.ABSTAINED, service.name)
        path = f"/{service.descriptor.full_name}/{service.method.name}"
        self.door = Door(path, (service.name, service.method.name), self._reply, keepers)

    async def _reply(self, body: bytes, deadline: float, context: Context) -> bytes:
        """Parses, predicts what can be predicted, and writes the reply."""
        service, generation = self.service, self._slot.pick(context)
        context.set_trailing_metadata(generation.trailers)
        request = parse(service.request, body)
        if self._least and not request.HasField("min_confidence"):
            request.min_confidence = self._least
        inputs = service.decode_items(request, self._most_items)
        visits.count_items(len(inputs))
        good = [item for item in inputs if not isinstance(item, errors.BadInput)]
        answers = await generation.submit(good, deadline) if good else []
        if len(good) < len(inputs):
            predictions = iter(answers)
            answers = [item if isinstance(item, errors.BadInput) else next(predictions) for item in inputs]
        reply, codes, abstained = service.encode_results(request, answers)
        if abstained:
            self._abstained.add(abstained)
        self.door.figures.add_items(codes)
        return reply


def parse(kind: Any, body: bytes) -> Any:
    """Reads a message of a kind; raises BadInput for bytes that are none, or hold text that is not UTF-8."""
    try:
        return kind.FromString(body)
    except (DecodeError, UnicodeDecodeError):
        problem = f"the request is no valid {kind.DESCRIPTOR.full_name}: malformed bytes, or text that is not UTF-8"
        raise errors.BadInput("", problem, Reason.MALFORMED_REQUEST) from None
