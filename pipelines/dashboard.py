"""A Ray dashboard, asked over HTTP: what is there, the logs of jobs, and in a sentence what went wrong."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
LOG_SECONDS = 600
"""Longest time that the dashboard takes to send what was asked of a log."""
BLOCK_BYTES = 1 << 16
PORT = 8265
GONE = ("A file is not found", "doesn't exist")
"""What the dashboard says of a log that is not there, and of one whose machine is not."""


class NoAnswer(ValueError):
    """Nothing answered, or not as a Ray dashboard does; it may do so later."""


class LogGone(ValueError):
    """The log of a job is not there: not yet, or no longer."""


class Dashboard:
    """The dashboard of a cluster that answers."""

    def __init__(self, address: str) -> None:
        """Connects. Raises ValueError with a sentence when nothing answers, or something else than Ray does."""
        self.address = address
        _knock(address)
        from ray.job_submission import JobSubmissionClient

        with sentences(address):
            self.client: Any = JobSubmissionClient(address)

    def get(self, path: str, missing: Any = None) -> Any:
        """Gives what the dashboard says, or `missing` where it knows nothing of it. Raises NoAnswer, ValueError."""
        with sentences(self.address):
            reply = self.client._do_request("GET", path, timeout=READ_SECONDS)
            if reply.status_code == 404 and missing is not None:
                return missing
            if reply.status_code >= 500:
                raise NoAnswer(f"the dashboard at {self.address} answers {path} with {reply.status_code}")
            if reply.status_code != 200:
                raise RuntimeError(f"{path} answered {reply.status_code}")
            return reply.json()

    def log(self, node: str, submission: str, lines: int) -> Iterator[bytes]:
        """Gives the end of a job's log, so many lines of it as it is now, in blocks; all of it for -1.

        Raises LogGone, and NoAnswer also in the middle.
        """
        import requests

        asked = {"node_id": node, "filename": f"job-driver-{submission}.log", "lines": lines, "timeout": LOG_SECONDS}
        way = {"headers": self.client._headers, "cookies": self.client._cookies, "verify": self.client._verify}
        url = f"{self.client._address}/api/v0/logs/file"
        with (
            sentences(self.address),
            requests.get(url, params=asked, stream=True, timeout=READ_SECONDS, **way) as reply,
        ):
            if reply.status_code != 200:
                if any(word in reply.text for word in GONE):
                    raise LogGone(f"the cluster at {self.address} no longer has the log of the job {submission!r}")
                raise NoAnswer(f"the dashboard at {self.address} answers {reply.status_code} when asked for a log")
            yield from reply.iter_content(BLOCK_BYTES)


@contextmanager
def sentences(address: str) -> Iterator[None]:
    """Turns what the dashboard or the way to it raises into one sentence."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as problem:
        raise ValueError(
            f"the cluster at {address} refuses this token ({str(problem).strip().splitlines()[0]}); set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
        ) from problem
    except (ConnectionError, requests.exceptions.RequestException) as problem:
        raise NoAnswer(
            f"the cluster at {address} does not answer as a Ray dashboard does ({_first(problem)})"
        ) from problem
    except (RuntimeError, KeyError) as problem:
        raise ValueError(f"the jobs server at {address} refused: {_first(problem)}") from problem


def _first(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[-1][:300]


def _knock(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--address is {address!r}; it must be that of a Ray dashboard, such as http://head:{PORT}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise NoAnswer(
            f"no cluster answers at {address} ({reason}); see whether its dashboard listens there, or start one here "
            "with `eagerly cluster up`"
        ) from None
