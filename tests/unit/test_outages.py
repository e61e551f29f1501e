"""What MLflow and its stores raise: an outage, which is waited out, or an answer, which is final."""

from collections.abc import Callable
from typing import Any

import pytest
import requests
import urllib3
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes
from sqlalchemy.exc import OperationalError

from pipelines import outages, registry, tracking

DOWNLOAD = (
    "The following failures occurred while downloading one or more artifacts from http://tracker:\n##### File model "
)
ASKED = (
    "API request to http://tracker failed with exception HTTPConnectionPool(host='tracker', port=5000): Max retries "
)


def _answered(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} Error", response=response)


class Client(Exception):
    """As botocore's ClientError."""

    __module__ = "botocore.exceptions"

    def __init__(self, said: str, status: int) -> None:
        super().__init__(said)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    "problem",
    [
        MlflowException("busy", codes.TEMPORARILY_UNAVAILABLE),
        MlflowException("busy", codes.REQUEST_LIMIT_EXCEEDED),
        MlflowException(f"{ASKED}(Caused by ResponseError('too many 500 error responses'))"),
        MlflowException(f"{DOWNLOAD}{ASKED}(Caused by ResponseError('too many 503 error responses'))"),
        MlflowException(f"{DOWNLOAD}{ASKED}(Caused by NewConnectionError('[Errno 111] Connection refused'))"),
        MlflowException(f"{DOWNLOAD}{ASKED}(Caused by NameResolutionError(\"Failed to resolve 'tracker'\"))"),
        MlflowException(f"{DOWNLOAD}503 Server Error: Service Unavailable for url: http://tracker"),
        MlflowException(f"{DOWNLOAD}('Connection aborted.', RemoteDisconnected('closed'))"),
        requests.ConnectionError("refused"),
        requests.ReadTimeout("read timed out"),
        _answered(503),
        urllib3.exceptions.ProtocolError("Connection broken: IncompleteRead"),
        OperationalError("select 1", {}, Exception("database is locked")),
        Client("An error occurred (503) when calling ListObjectsV2: Service Unavailable", 503),
    ],
    ids=str,
)
def test_an_outage_may_pass(problem: Exception) -> None:
    assert outages.passes(problem)


@pytest.mark.parametrize(
    "problem",
    [
        MlflowException("no such run", codes.RESOURCE_DOES_NOT_EXIST),
        MlflowException("no such artifact", codes.INVALID_PARAMETER_VALUE),
        MlflowException(f"{DOWNLOAD}{ASKED}(Caused by ResponseError('too many 500 error responses'))"),
        MlflowException(f"{DOWNLOAD}404 Client Error: Not Found for url: http://tracker"),
        MlflowException(f"{DOWNLOAD}[Errno 2] No such file or directory: '/mlruns/503/model'"),
        requests.exceptions.InvalidURL("no url"),
        _answered(404),
        Client("An error occurred (NoSuchBucket) when calling ListObjectsV2", 404),
        FileNotFoundError("gone"),
        RuntimeError("503 Server Error"),
    ],
    ids=str,
)
def test_what_is_gone_or_refused_stays_so(problem: Exception) -> None:
    assert not outages.passes(problem)


def test_a_person_is_told_of_an_outage_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"^MLflow at .* does not answer \(MlflowException: busy\)$"), tracking.asked():
        raise MlflowException("busy", codes.TEMPORARILY_UNAVAILABLE)


class Page(list[Any]):
    """A page of a search, and what asks for the next."""

    token = ""


class Model:
    def __init__(self, name: str) -> None:
        self.name = name


def test_models_are_listed_page_by_page_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Paged:
        def search_registered_models(self, page_token: str = "") -> Page:
            at = int(page_token or 0)
            page = Page(Model(f"model-{number:03}") for number in range(at, min(at + 100, 250)))
            page.token = str(at + 100) if at + 100 < 250 else ""
            return page

    client: Callable[[], Paged] = Paged
    monkeypatch.setattr(registry, "_client", client)
    assert registry.names() == [f"model-{number:03}" for number in range(250)]
