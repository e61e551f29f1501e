"""What can go wrong with a call, in the words of the domain.

    ServiceError
    ├── BadInput            the caller sent something wrong, in the fields it names
    ├── NotFound            the caller named something that does not exist
    ├── TooMuch             more than this endpoint takes; a retry of the same call cannot help
    ├── Busy                more is waiting than this endpoint holds; a retry helps
    ├── TooLate             the deadline has passed, or is nearer than the work is long
    ├── Unavailable         starting, draining, or no model yet
    └── Failure             a mistake of ours: the caller learns a request id, the log learns the rest

Nothing here knows gRPC; status.py does the mapping.
"""

import uuid
from collections.abc import Sequence


class ServiceError(Exception):
    """Anything that keeps a call or one of its items from being answered; its text may be shown to the caller."""


class BadInput(ServiceError):
    """Names the field that is wrong, as a path such as `images[0].raw.shape[1]`, and says what is allowed."""

    def __init__(self, field: str, description: str) -> None:
        """Keeps the path and the description apart, so that a program can read both."""
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description

    def under(self, parent: str) -> "BadInput":
        """Places the field below a parent: `raw.shape` under `images[0]` becomes `images[0].raw.shape`."""
        return BadInput(f"{parent}.{self.field}" if self.field else parent, self.description)


class NotFound(ServiceError):
    """Says which name is unknown."""


class TooMuch(ServiceError):
    """Says which limit the call is over."""


class Busy(ServiceError):
    """Says that the queue is full, and when to come back."""

    def __init__(self, retry_after_s: float) -> None:
        """Takes the seconds until the queue is likely to have room."""
        super().__init__("the queue is full")
        self.retry_after_s = retry_after_s


class TooLate(ServiceError):
    """Says that no time is left for the work."""


class Unavailable(ServiceError):
    """Says why there is no answer now, though there may be one soon."""


class Failure(ServiceError):
    """Carries a request id by which the log entry is found, and nothing else."""

    def __init__(self) -> None:
        """Draws the request id."""
        self.request_id = uuid.uuid4().hex
        super().__init__(f"internal error; request id {self.request_id}")


def of_item(error: Exception, field: str) -> ServiceError:
    """Translates what a model returned in place of an item's prediction.

    A LookupError means that the item names something unknown, any other ValueError that the item is wrong.
    """
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, LookupError):
        return NotFound(f"{field}: {_text(error)}")
    assert isinstance(error, ValueError), f"a model may return ValueError or LookupError, not {type(error).__name__}"
    return BadInput(field, _text(error))


def _text(error: Exception) -> str:
    """Reads the message itself; str(KeyError) would quote it."""
    arguments: Sequence[object] = error.args
    return str(arguments[0]) if arguments else "not accepted"
