"""What a service is to the server: one RPC, how its items are read and how its answers are written."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from pipelines.tasks import TASKS
from services import errors, status
from services.reasons import Reason

MOST_ANSWERS = 100_000
"""Labels, items or named scores that a call may ask for, those of all its items together: 9 KB of queries could ask for
a reply of 50 MB."""


@dataclass(frozen=True)
class Service:
    """One RPC that answers a list of items, each with a result and a status of its own.

    Request and item messages differ from service to service, hence `Any` in the signatures.
    """

    name: str
    """The task's name: `classifier`."""
    descriptor: ServiceDescriptor
    """The service in the contract; it has one method."""
    request: type[Message]
    """The request's message class."""
    response: type[Message]
    """The response's message class; its items are called `results`."""
    items: str
    """The request's repeated field: `images`."""
    check: Callable[[Any], None]
    """Raises BadInput for what is wrong with the request as a whole."""
    decode: Callable[[Any], Any]
    """Turns one item into an input of the model; raises BadInput with a path below the item."""
    encode: Callable[[Any, Any, Any], None]
    """Writes a prediction into a result: (request, prediction, result)."""
    blame: Callable[[Any, Exception], tuple[str, Reason]]
    """Says which field of an item the model's error is about, as a path below the item (empty for the whole), and why
    the model refused it. Open Inference, which has other fields, asks with an input of the model and takes the why."""
    weigh: Callable[[Any], int]
    """Says how many times as long as the quickest input one takes a model at the most; 0 if it may take any time."""
    bound: Callable[[list[Any]], None] | None = None
    """Raises BadInput when the answers to inputs of the model are too many for one reply of Open Inference."""

    @cached_property
    def abstains(self) -> bool:
        """Whether callers may ask for a least confidence, and results say that it was not reached."""
        return "min_confidence" in self.request.DESCRIPTOR.fields_by_name

    @property
    def method(self) -> MethodDescriptor:
        """The RPC in the contract."""
        return self.descriptor.methods[0]

    def decode_items(self, request: Any, most: int) -> list[Any]:
        """Turns every item into an input, or into the BadInput that says what is wrong with it.

        Raises BadInput for the request as a whole: no items, or more than `most`.
        """
        items = getattr(request, self.items)
        if not items:
            raise errors.BadInput(self.items, f"is empty; send 1 to {most}", Reason.EMPTY)
        if len(items) > most:
            problem = f"holds {len(items)}; send 1 to {most} in a call"
            raise errors.BadInput(self.items, problem, Reason.TOO_MANY_ITEMS, limit=most)
        self.check(request)
        return [self._decode_item(item, index) for index, item in enumerate(items)]

    def encode_results(self, request: Any, predictions: list[Any]) -> tuple[bytes, dict[int, int], int]:
        """Writes each prediction, or the error in its place, as one result.

        Returns the response's bytes, how many items have which code, and in how many the model abstains.
        """
        response: Any = self.response()
        codes: dict[int, int] = {}
        abstained, may_abstain = 0, self.abstains and request.min_confidence > 0
        items = getattr(request, self.items)
        for index, prediction in enumerate(predictions):
            result = response.results.add()
            if isinstance(prediction, Exception):
                told = status.of(self._item_error(items[index], index, prediction))
                result.status.CopyFrom(told)
                codes[told.code] = codes.get(told.code, 0) + 1
            else:
                result.status.SetInParent()
                self.encode(request, prediction, result)
                codes[0] = codes.get(0, 0) + 1
                abstained += may_abstain and result.abstained
        return response.SerializeToString(), codes, abstained

    def _decode_item(self, item: Any, index: int) -> Any:
        try:
            return self.decode(item)
        except errors.BadInput as error:
            return error.under(f"{self.items}[{index}]")

    def _item_error(self, item: Any, index: int, error: Exception) -> errors.ServiceError:
        if isinstance(error, errors.ServiceError):
            return error
        below, reason = self.blame(item, error)
        path = f"{self.items}[{index}]"
        return errors.of_item(error, f"{path}.{below}" if below else path, reason)


def find(name: str) -> Service | None:
    """Imports the service of a task: services/<name>.py has it as `SERVICE`; a user's own task has none."""
    if name not in TASKS:
        return None
    return importlib.import_module(f"services.{name}").SERVICE
