"""Asks each service for its health, a prediction and its metrics; what `helm test` runs.

python call_services.py sentiment=eagerly-sentiment:9002,eagerly-sentiment-headless:9090
"""

import os
import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path

from eagerly.client import CallError, Client, Query, Raw, Tls


def predict(client: Client, task: str) -> str:
    """Makes one call and says what came; an item that a model refuses is an answer too."""
    if task == "classifier":
        result = client.classify([Raw(bytes(28 * 28), (28, 28))])[0]
    elif task == "sentiment":
        result = client.analyze(["What a film!"])[0]
    else:
        result = client.recommend([Query(user_id="1", k=3)])[0]
    provenance = result.provenance
    return f"{provenance.model} version {provenance.version}: {result.error or 'answered'}"


def check(task: str, address: str, metrics: str) -> str:
    """Returns what is wrong with a service, or nothing."""
    tls = _tls(os.environ.get("CALLS_TLS", ""))
    token = os.environ.get("EAGERLY_TOKEN", "") if tls else ""
    try:
        with Client(address, timeout_s=20, tls=tls, token=token) as client:
            if not client.healthy():
                return f"{task} at {address} does not say SERVING; has it a champion? `eagerly train {task}` makes one"
            print(f"{task}: {predict(client, task)}", flush=True)
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=20) as reply:
            if 'eagerly_model_info{digest="' not in (figures := reply.read().decode()):
                return f"the metrics of {task} at {metrics} name no model in {len(figures)} characters"
    except (CallError, ValueError, OSError, HTTPException) as problem:
        return f"{task} at {address}: {type(problem).__name__}: {problem}"
    return ""


def _tls(folder: str) -> Tls | None:
    """Finds the authority and the client's certificate among what is mounted; None calls in the clear."""
    if not folder:
        return None
    files = [Path(folder) / name for name in ("tls/ca.crt", "client/tls.crt", "client/tls.key")]
    return Tls(*(file if file.exists() else None for file in files))


def main(words: list[str]) -> int:
    """Checks all services; 1 when something is wrong with any."""
    wrong = []
    for word in words:
        task, _, places = word.partition("=")
        address, _, metrics = places.partition(",")
        wrong.append(check(task, address, metrics))
        print(wrong[-1] or f"{task}: health, prediction and metrics are there", flush=True)
    return int(any(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
