"""What is known of one call while it is worked on: what the access log and traces are written from.

A visit exists only where one of the two is on. It is found through `current`, so that whoever learns something of the
call on its way can note it.
"""

import itertools
import os
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.batches import Batch
    from services.door import Context

REQUEST_ID = "x-request-id"
"""The metadata that carries a request id, both ways."""
WELL_FORMED = re.compile(r"[!-~]{1,64}")
"""What is accepted as a request id from a caller: up to 64 printable ASCII characters without spaces."""

Trailers = tuple[tuple[str, Any], ...]


@dataclass(eq=False)
class Visit:
    """One call, from when it came in; what is not known yet is the class's, so that each begins with little."""

    request_id: str
    is_named: bool
    """Whether the request id is the caller's own."""
    peer: str
    """As gRPC spells it: `ipv4:127.0.0.1:4711`."""
    request_bytes: int
    deadline_left_s: float | None
    """Seconds that the caller had left when the call came in; None without a deadline."""
    came: float = field(default_factory=time.time)
    """When the call came in, in seconds since 1970."""
    principal: str | None = field(default=None, init=False)
    """Who the guard found the caller to be."""
    item_count: int = field(default=0, init=False)
    provenance: Trailers = field(default=(), init=False)
    """Which model answered, as in the trailing metadata."""
    waited: tuple[float, float] | None = field(default=None, init=False)
    """When the call began to wait for the model and when the computation began, on the clock of time.monotonic()."""
    compute_s: float = field(default=0.0, init=False)
    """How long the batch took that the call was computed in."""
    span: Any = field(default=None, init=False)
    """The server span, of a call that is traced."""
    batch: "Batch | None" = field(default=None, init=False)
    """What a traced call was computed in."""

    def computed(self, submitted: float, batch: "Batch") -> None:
        """Notes that a batch with the call's items has been computed."""
        self.waited, self.compute_s = (submitted, batch.started), batch.compute_s
        if self.span is not None:
            self.batch = batch

    def sign(self, context: "Context", failed: bool) -> None:
        """Notes the provenance, and adds the request id to the trailing metadata of a call that sent one or failed.

        Others have no use for it, and a piece of trailing metadata costs a call more than its line in the log does.
        """
        self.provenance = tuple(context.trailing_metadata() or ())
        if failed or self.is_named:
            context.set_trailing_metadata((*self.provenance, (REQUEST_ID, self.request_id)))


current: ContextVar[Visit | None] = ContextVar("visit", default=None)
"""The visit of the call that this task answers. A task that does other work, as a shadow's, sets it to None."""


class RequestIds:
    """Gives each call an id: its caller's own when that is well-formed, else one that no other process gives."""

    def __init__(self) -> None:
        """Draws what all ids of this process begin with."""
        self._prefix = os.urandom(6).hex()
        self._counter = itertools.count(1)

    def of(self, given: object) -> tuple[str, bool]:
        """Takes what the caller sent as an id, None when nothing; returns the id, and whether it is the caller's."""
        if isinstance(given, str) and WELL_FORMED.fullmatch(given):
            return given, True
        return f"{self._prefix}-{next(self._counter):x}", False


def count_items(count: int) -> None:
    """Notes how many items the call at hand holds, those that are refused included."""
    visit = current.get()
    if visit is not None:
        visit.item_count = count
