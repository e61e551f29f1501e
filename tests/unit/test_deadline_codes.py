"""A call that its deadline ends is told from one that its caller cancels, in metrics, access log and traces."""

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import endpoints
import grpc
import pytest
from collectors import Collector, traced
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from prometheus_client.parser import text_string_to_metric_families

from eagerly.v1 import sentiment_pb2

ANALYZE = "eagerly.v1.Sentiment/Analyze"


def counted(endpoint: endpoints.Endpoint) -> dict[str, int]:
    """How many calls ended with which code, once all are counted."""
    text = urllib.request.urlopen(endpoint.metrics).read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    calls = [one for one in samples if one.name == "eagerly_requests_total" and one.labels["method"] == "Analyze"]
    return {one.labels["code"]: int(one.value) for one in calls if one.value}


def give_up(endpoint: endpoints.Endpoint, timeout_s: float, cancelled_after_s: float | None) -> None:
    """Calls, and waits until the call has ended for the server too."""
    before = sum(counted(endpoint).values())
    with grpc.insecure_channel(endpoint.address) as channel:
        request = sentiment_pb2.AnalyzeRequest(texts=["fine"]).SerializeToString()
        call: Any = channel.unary_unary(f"/{ANALYZE}").future(request, timeout=timeout_s)
        if cancelled_after_s is not None:
            time.sleep(cancelled_after_s)
            call.cancel()
        else:
            assert call.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until = time.monotonic() + 10
        while sum(counted(endpoint).values()) == before and time.monotonic() < until:
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("timeout_s", "cancelled_after_s", "code"),
    [(0.1, None, "DEADLINE_EXCEEDED"), (1.001, None, "DEADLINE_EXCEEDED"), (10.0, 0.2, "CANCELLED")],
)
def test_a_model_that_is_slower_than_deadlines_counts_against_the_endpoint(
    tmp_path: Path, collector: Collector, timeout_s: float, cancelled_after_s: float | None, code: str
):
    model, log = endpoints.Gate(), tmp_path / "access.jsonl"
    options = {"trace_ratio": 1.0, "access_log": str(log), "inline": False}
    with traced(tmp_path / "metrics", collector.url, model, **options) as endpoint:
        model.open.clear()
        give_up(endpoint, timeout_s, cancelled_after_s)
        assert counted(endpoint) == {code: 1}
        model.open.set()
    assert [json.loads(line)["code"] for line in log.read_text().splitlines()] == [code]
    (span,) = collector.named(ANALYZE)
    assert (span.status.code == Status.STATUS_CODE_ERROR) is (code == "DEADLINE_EXCEEDED")
