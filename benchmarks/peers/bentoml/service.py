"""BentoML, tuned for throughput.

Followed: its "Adaptive batching" (batchable, max_batch_size, max_latency_ms), "Concurrency" and "Workers".
A batchable API takes a list a call, as JSON: pixels travel as base64, a third of the size of a list of numbers. The
dispatcher refuses what it thinks would take longer than max_latency_ms, so it is generous. The access log is off,
metrics and the default number of threads stay.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import base64
import os
from typing import Any

import bentoml

from benchmarks.peers.serving import MAX_BATCH, Served


@bentoml.service(
    workers=int(os.environ.get("PEER_WORKERS", "1")), traffic={"timeout": 60}, logging={"access": {"enabled": False}}
)
class Peer:
    """One worker."""

    def __init__(self) -> None:
        """Loads the model."""
        self._served = Served()
        self._text = os.environ["PEER_TASK"] == "sentiment"

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=10_000)
    def predict(self, items: list[str]) -> list[Any]:
        """Computes a batch."""
        return self._served.answer([item.encode() if self._text else base64.b64decode(item) for item in items])
