"""The door: the one place where errors of the domain become google.rpc.Status."""

from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services import errors

OK = status_pb2.Status()
DOMAIN = "eagerly"
"""Whose reasons these are, as google.rpc.ErrorInfo asks."""

_Violation = error_details_pb2.BadRequest.FieldViolation

CODES: dict[type[errors.ServiceError], int] = {
    errors.BadInput: code_pb2.INVALID_ARGUMENT,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.Busy: code_pb2.RESOURCE_EXHAUSTED,
    errors.TooLate: code_pb2.DEADLINE_EXCEEDED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.Away: code_pb2.UNAVAILABLE,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.Forbidden: code_pb2.PERMISSION_DENIED,
    errors.Failure: code_pb2.INTERNAL,
}
"""The code of each kind of error."""


def of(error: errors.ServiceError) -> status_pb2.Status:
    """Maps an error to a code, a sentence and the details that a program can act on, the reason last."""
    status = status_pb2.Status(code=CODES[type(error)], message=errors.shortened(str(error)))
    if isinstance(error, errors.FieldError):
        violations = [
            _Violation(field=one.field, description=one.description, reason=one.reason.name)
            for one in (error, *error.others)
        ]
        _add(status, "BadRequest", error_details_pb2.BadRequest(field_violations=violations))
    elif isinstance(error, errors.Busy):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(1, round(error.retry_after_s * 1000)))
        _add(status, "RetryInfo", error_details_pb2.RetryInfo(retry_delay=delay))
    elif isinstance(error, errors.Failure):
        _add(status, "RequestInfo", error_details_pb2.RequestInfo(request_id=error.request_id))
    info = error_details_pb2.ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata=error.metadata)
    _add(status, "ErrorInfo", info)
    return status


def name(code: int) -> str:
    """Names a code as gRPC does, such as INVALID_ARGUMENT."""
    return code_pb2.Code.Name(code)


def _add(status: status_pb2.Status, kind: str, detail: Message) -> None:
    """Appends a detail; Any.Pack, which looks the type's name up each time, takes twice as long."""
    status.details.add(type_url=f"type.googleapis.com/google.rpc.{kind}", value=detail.SerializeToString())
