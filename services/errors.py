"""What can go wrong with a call, in the words of the domain.

    ServiceError
    ├── FieldError          about one field of the request
    │   ├── BadInput        the caller sent something wrong
    │   └── NotFound        the caller named something that does not exist
    ├── Busy                more is waiting than this endpoint holds; a retry helps
    ├── TooLate             the deadline has passed, or is nearer than the work is long
    ├── Unavailable         starting, draining, or no model yet
    ├── Away                the same, as the process that computes the model is starting again
    ├── Unauthenticated     the caller has not said who it is, or not in a way that can be believed
    ├── Forbidden           the caller may not call this
    └── Failure             a mistake of ours: the caller learns a request id, the log learns the rest

Each carries a reason of reasons.py. Nothing here knows gRPC; status.py does the mapping.
"""

import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from services.reasons import Reason

LONGEST_TEXT = 300
"""Characters of a description: gRPC sends it twice among headers, of which a caller takes 8 KB."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


class ServiceError(Exception):
    """Anything that keeps a call or one of its items from being answered; its text may be shown to the caller."""

    reason: Reason
    """Why, in a word that programs may rely on."""
    metadata: Mapping[str, str] = _NOTHING
    """What a program can use besides, such as the limit."""


class FieldError(ServiceError):
    """Names the field that is wrong, as a path such as `images[0].raw.shape[1]`, and says what is allowed."""

    others: Sequence["FieldError"] = ()
    """What else is wrong with the call, where one error stands for several."""

    def __init__(self, field: str, description: str, reason: Reason, metadata: Mapping[str, str]) -> None:
        """Keeps the path and the description apart, so that a program can read both."""
        self.field = field
        self.description = shortened(description)
        self.reason = reason
        self.metadata = metadata
        super().__init__(f"{field}: {self.description}" if field else self.description)


class BadInput(FieldError):
    """Says that a value is wrong."""

    def __init__(
        self, field: str, description: str, reason: Reason = Reason.INVALID_VALUE, **limits: int | str
    ) -> None:
        """Takes the field's path, empty for the message as a whole; limits become the metadata."""
        super().__init__(field, description, reason, {name: str(value) for name, value in limits.items()})

    def under(self, parent: str) -> "BadInput":
        """Places the field below a parent: `raw.shape` under `images[0]` becomes `images[0].raw.shape`."""
        path = f"{parent}.{self.field}" if self.field else parent
        return BadInput(path, self.description, self.reason, **self.metadata)


class NotFound(FieldError):
    """Says which name is unknown."""

    def __init__(self, description: str, field: str = "", reason: Reason = Reason.UNKNOWN_VALUE) -> None:
        """Takes the path of the field with the name, where it is one of a request's."""
        super().__init__(field, description, reason, _NOTHING)


class Busy(ServiceError):
    """Says that the queue is full, and when to come back."""

    reason = Reason.QUEUE_FULL

    def __init__(self, retry_after_s: float) -> None:
        """Takes the seconds until the queue is likely to have room."""
        super().__init__("the queue is full")
        self.retry_after_s = retry_after_s


class TooLate(ServiceError):
    """Says that no time is left for the work."""

    reason = Reason.DEADLINE


class Unavailable(ServiceError):
    """Says why there is no answer now, though there may be one soon."""

    reason = Reason.DRAINING


class Away(ServiceError):
    """Says that a model is computed in another process, which is not there now."""

    reason = Reason.MODEL_AWAY


class Unauthenticated(ServiceError):
    """Says what is missing or wrong with the caller's token, never the token itself."""

    reason = Reason.UNAUTHENTICATED


class Forbidden(ServiceError):
    """Says which permission the caller lacks."""

    reason = Reason.FORBIDDEN


class Failure(ServiceError):
    """Carries a request id by which the log entry is found, and nothing else."""

    reason = Reason.INTERNAL

    def __init__(self, request_id: str | None = None) -> None:
        """Takes the request id, or draws one."""
        self.request_id = request_id or uuid.uuid4().hex
        super().__init__(f"internal error; request id {self.request_id}")


def of_item(error: Exception, field: str, reason: Reason | None = None) -> ServiceError:
    """Translates what a model returned in place of an item's prediction.

    A LookupError means that the item names something unknown, any other ValueError that the item is wrong.
    """
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, LookupError):
        return NotFound(_text(error), field, reason or Reason.UNKNOWN_VALUE)
    assert isinstance(error, ValueError), f"a model may return ValueError or LookupError, not {type(error).__name__}"
    return BadInput(field, _text(error), reason or Reason.INVALID_VALUE)


def shortened(text: str) -> str:
    """Cuts a text that a caller's own values have made too long for a header."""
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 3]}..."


def _text(error: Exception) -> str:
    """Reads the message itself; str(KeyError) would quote it."""
    arguments: Sequence[object] = error.args
    return str(arguments[0]) if arguments else "not accepted"
