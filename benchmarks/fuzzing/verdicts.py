"""What may come of a call, as an oracle expects it and as a server's reply says it."""

from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2


@dataclass(frozen=True)
class Refusal:
    """Why a call or an item is refused."""

    code: str
    field: str = ""
    reason: str = ""
    """Empty where gRPC itself refuses, which gives none."""


INVALID = "INVALID_ARGUMENT"


def invalid(path: str, reason: str) -> Refusal:
    """The refusal of a value."""
    return Refusal(INVALID, path, reason)


@dataclass
class Expected:
    """What the contract allows to come of a call."""

    whole: set[Refusal] = field(default_factory=set)
    """One of these must end the call; when it is empty, the call must be answered."""
    items: list[set[Refusal]] = field(default_factory=list)
    """For each item of an answered call, of which one must be its status; empty where it must be answered."""
    label_count: int | None = None
    """How many labels each answered item has, where the contract says so."""
    checksums: list[int] | None = None
    """What the model that computes checksums of its inputs must answer; None for another."""


@dataclass
class Actual:
    """What came of a call."""

    refusal: Refusal | None = None
    items: list[Refusal | None] = field(default_factory=list)
    response: Any = None


def compare(expected: Expected, actual: Actual) -> str:
    """Says what is wrong with an outcome; empty when nothing is."""
    if expected.whole or actual.refusal:
        return "" if actual.refusal in expected.whole else f"{actual.refusal} is none of {expected.whole or 'OK'}"
    if len(actual.items) != len(expected.items):
        return f"{len(actual.items)} results of {len(expected.items)} items"
    for at, (allowed, got) in enumerate(zip(expected.items, actual.items, strict=True)):
        if (got not in allowed) if allowed else (got is not None):
            return f"item {at}: {got} is none of {allowed or 'OK'}"
    return ""


def refusal_of(status: status_pb2.Status) -> Refusal:
    """Reads a status with its details."""
    bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
    path = reason = ""
    for detail in status.details:
        if detail.Unpack(bad):
            path = bad.field_violations[0].field
        elif detail.Unpack(info):
            reason = info.reason if info.domain == "eagerly" else f"{info.domain}/{info.reason}"
    return Refusal(code_pb2.Code.Name(status.code), path, reason)


def refusal_from(error: grpc.RpcError) -> Refusal:
    """Reads what ended a call."""
    trailers: dict[Any, Any] = dict(error.trailing_metadata() or ())  # type: ignore[attr-defined]
    details = trailers.get("grpc-status-details-bin")
    if details is None:
        return Refusal(error.code().name)  # type: ignore[attr-defined]
    return refusal_of(status_pb2.Status.FromString(details))
