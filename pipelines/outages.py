"""Tells outages of MLflow and its stores, which may pass by themselves, from what else they raise."""

import re
from collections.abc import Mapping

RAISERS = ("mlflow", "requests", "urllib3", "sqlalchemy", "botocore")
"""Packages whose errors say that the store refuses or is away."""
MISTAKES = (ValueError, AssertionError, LookupError, TypeError, AttributeError)
"""What says that the question was wrong, whoever raises it."""
DOWNLOAD = "failures occurred while downloading"
"""What MLflow says of artifacts that it did not get, whatever the reason."""
AWAY = re.compile(
    r"\b(408|429|502|503|504)\b( (Client|Server) Error|\)| error resp)|timed? ?out|SlowDown|\bIncompleteRead"
    r"|failed to resolve|(new|endpoint) ?connection|connection (aborted|refused|reset|broken)|could not connect",
    re.IGNORECASE,
)
"""Which of the reasons may pass; a server says 500 of an artifact that is gone."""


def status(problem: Exception) -> int:
    """Gives the HTTP status that an error stands for; 500 where it says none."""
    response = getattr(problem, "response", None)
    if isinstance(response, Mapping):  # botocore's
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
    if (code := getattr(response, "status_code", None)) is not None:
        return int(code)
    return int(getattr(problem, "get_http_status_code", lambda: 500)())


def is_refusal(code: int) -> bool:
    """Says whether a status refuses the question, so that asking again is no use."""
    return 400 <= code < 500 and code not in (408, 409, 429)


def passes(problem: Exception) -> bool:
    """Says whether a store or the way to it failed and may be back; not so of an artifact that is gone."""
    package, said = type(problem).__module__.partition(".")[0], f"{type(problem).__name__}: {problem}"
    if package not in RAISERS or isinstance(problem, MISTAKES):
        return False
    code = status(problem)
    if is_refusal(code):
        return False
    is_open = code == 500 and (DOWNLOAD in said or package == "botocore")
    return bool(AWAY.search(said)) if is_open else True
