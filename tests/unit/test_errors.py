import pytest
from google.rpc import code_pb2, error_details_pb2

from services import errors, status


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadInput("texts[3]", "is empty"), code_pb2.INVALID_ARGUMENT),
        (errors.NotFound("no such user"), code_pb2.NOT_FOUND),
        (errors.TooMuch("over the cap"), code_pb2.RESOURCE_EXHAUSTED),
        (errors.Busy(0.5), code_pb2.RESOURCE_EXHAUSTED),
        (errors.TooLate("no time left"), code_pb2.DEADLINE_EXCEEDED),
        (errors.Unavailable("draining"), code_pb2.UNAVAILABLE),
        (errors.Failure(), code_pb2.INTERNAL),
    ],
)
def test_every_error_of_the_domain_has_one_code(error: errors.ServiceError, code: int):
    assert status.of(error).code == code


def test_every_kind_of_error_is_mapped():
    kinds = errors.ServiceError.__subclasses__()
    assert {type(error) for error in (errors.Failure(), errors.Busy(1))} <= set(kinds)
    assert set(kinds) == set(status.CODES)


def test_bad_input_carries_the_path_of_the_field():
    error = errors.BadInput("shape[1]", "is -1; it must be 1 or more").under("raw").under("images[0]")
    bad = error_details_pb2.BadRequest()
    assert status.of(error).details[0].Unpack(bad)
    assert bad.field_violations[0].field == "images[0].raw.shape[1]"
    assert bad.field_violations[0].description == "is -1; it must be 1 or more"


def test_a_full_queue_says_when_to_retry():
    retry = error_details_pb2.RetryInfo()
    assert status.of(errors.Busy(0.25)).details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 250


def test_a_long_wait_is_told_in_seconds():
    retry = error_details_pb2.RetryInfo()
    assert status.of(errors.Busy(2.5)).details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2500


def test_a_failure_tells_a_request_id_and_nothing_else():
    failure = errors.Failure()
    told = status.of(failure)
    info = error_details_pb2.RequestInfo()
    assert told.details[0].Unpack(info)
    assert info.request_id == failure.request_id
    assert told.message == f"internal error; request id {failure.request_id}"


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (ValueError("k is 0"), errors.BadInput),
        (LookupError("unknown user"), errors.NotFound),
        (KeyError("unknown user"), errors.NotFound),
    ],
)
def test_what_a_model_returns_for_a_bad_item_becomes_an_error_of_the_domain(problem: Exception, kind: type):
    error = errors.of_item(problem, "queries[0]")
    assert type(error) is kind
    assert str(error) == f"queries[0]: {problem.args[0]}"
