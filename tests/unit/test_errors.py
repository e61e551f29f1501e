import re
from pathlib import Path

import pytest
from google.rpc import code_pb2, error_details_pb2

from services import errors, status
from services.reasons import Reason

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "errors.md"


def info(error: errors.ServiceError) -> error_details_pb2.ErrorInfo:
    """The reason that an error carries."""
    found = error_details_pb2.ErrorInfo()
    assert [detail for detail in status.of(error).details if detail.Unpack(found)]
    return found


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadInput("texts[3]", "is empty"), code_pb2.INVALID_ARGUMENT),
        (errors.NotFound("no such user"), code_pb2.NOT_FOUND),
        (errors.Busy(0.5), code_pb2.RESOURCE_EXHAUSTED),
        (errors.TooLate("no time left"), code_pb2.DEADLINE_EXCEEDED),
        (errors.Unavailable("draining"), code_pb2.UNAVAILABLE),
        (errors.Failure(), code_pb2.INTERNAL),
    ],
)
def test_every_error_of_the_domain_has_one_code(error: errors.ServiceError, code: int):
    assert status.of(error).code == code


def test_every_kind_of_error_is_mapped():
    kinds = {*errors.ServiceError.__subclasses__(), *errors.FieldError.__subclasses__()} - {errors.FieldError}
    assert kinds == set(status.CODES)


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


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.BadInput("texts", "is empty", Reason.EMPTY), "EMPTY"),
        (errors.BadInput("texts[0]", "is odd"), "INVALID_VALUE"),
        (errors.NotFound("no such user", "user_id", Reason.UNKNOWN_USER), "UNKNOWN_USER"),
        (errors.Busy(0.5), "QUEUE_FULL"),
        (errors.TooLate("no time left"), "DEADLINE"),
        (errors.Unavailable("draining"), "DRAINING"),
        (errors.Away("starting again"), "MODEL_AWAY"),
        (errors.Unauthenticated("no token"), "UNAUTHENTICATED"),
        (errors.Forbidden("not this one"), "FORBIDDEN"),
        (errors.Failure(), "INTERNAL"),
    ],
)
def test_every_error_carries_its_reason(error: errors.ServiceError, reason: str):
    assert (info(error).reason, info(error).domain) == (reason, "eagerly")


def test_a_limit_is_told_as_a_number_that_a_program_can_read():
    error = errors.BadInput("texts", "holds 9", Reason.TOO_MANY_ITEMS, limit=8).under("request")
    assert dict(info(error).metadata) == {"limit": "8"}
    assert info(error).reason == "TOO_MANY_ITEMS"


def test_what_is_unknown_names_its_field_too():
    error = errors.of_item(LookupError("unknown user"), "queries[0].user_id", Reason.UNKNOWN_USER)
    bad = error_details_pb2.BadRequest()
    assert status.of(error).details[0].Unpack(bad)
    assert bad.field_violations[0].field == "queries[0].user_id"


def test_a_text_that_a_caller_made_long_fits_among_headers():
    told = status.of(errors.of_item(LookupError("\N{GRINNING FACE}" * 100_000), "queries[0].user_id"))
    assert told.ByteSize() < 4000
    assert told.message.endswith("...")


def test_the_documented_reasons_are_those_of_the_code():
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert {name: when for name, _, when in rows} == {reason.name: reason.value for reason in Reason}


def test_the_documented_codes_are_those_of_the_code():
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    own = {kind.reason.name: status.name(code) for kind, code in status.CODES.items() if hasattr(kind, "reason")}
    assert own.items() <= dict(rows).items()
    assert {code for name, code in rows if name.startswith("UNKNOWN_") and name != "UNKNOWN_NAME"} == {"NOT_FOUND"}
    others = {code for name, code in rows if name not in own and (name[:8] != "UNKNOWN_" or name == "UNKNOWN_NAME")}
    assert others == {"INVALID_ARGUMENT"}
