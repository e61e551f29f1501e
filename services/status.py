"""The door: the one place where errors of the domain become google.rpc.Status."""

from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services import errors

OK = status_pb2.Status()

CODES: dict[type[errors.ServiceError], int] = {
    errors.BadInput: code_pb2.INVALID_ARGUMENT,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.TooMuch: code_pb2.RESOURCE_EXHAUSTED,
    errors.Busy: code_pb2.RESOURCE_EXHAUSTED,
    errors.TooLate: code_pb2.DEADLINE_EXCEEDED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.Failure: code_pb2.INTERNAL,
}
"""The code of each kind of error."""


def of(error: errors.ServiceError) -> status_pb2.Status:
    """Maps an error to a code, a sentence and the details that a program can act on."""
    status = status_pb2.Status(code=CODES[type(error)], message=str(error))
    detail = _detail(error)
    if detail is not None:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def name(code: int) -> str:
    """Names a code as gRPC does, such as INVALID_ARGUMENT."""
    return code_pb2.Code.Name(code)


def _detail(
    error: errors.ServiceError,
) -> error_details_pb2.BadRequest | error_details_pb2.RetryInfo | error_details_pb2.RequestInfo | None:
    if isinstance(error, errors.BadInput):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.description)
        return error_details_pb2.BadRequest(field_violations=[violation])
    if isinstance(error, errors.Busy):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(1, round(error.retry_after_s * 1000)))
        return error_details_pb2.RetryInfo(retry_delay=delay)
    if isinstance(error, errors.Failure):
        return error_details_pb2.RequestInfo(request_id=error.request_id)
    return None
