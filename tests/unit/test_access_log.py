"""The access log, as the one who reads it finds it: what a line says, whose file it is, and what is never lost."""

import base64
import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import endpoints
import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from eagerly.client import Client
from eagerly.v1 import sentiment_pb2
from services import access_log, metrics, visits
from services.options import Options

ANALYZE = "/eagerly.v1.Sentiment/Analyze"
KEYS = [
    "time",
    "request_id",
    "method",
    "code",
    "duration_ms",
    "queue_ms",
    "compute_ms",
    "items",
    "request_bytes",
    "reply_bytes",
    "model",
    "version",
    "run_id",
    "digest",
    "principal",
    "peer",
    "deadline_left_ms",
]
WRITER = """
import sys
from pathlib import Path
from services import access_log, metrics, visits
log = access_log.AccessLog(sys.argv[1], 0, metrics.Metrics(Path(sys.argv[2])))
for number in range(2000):
    log.add("m", visits.Visit(f"{sys.argv[3]}-{number}", False, "unix:", 3, None), 0, 0.1, b"", b"")
log.close()
"""


def call(address: str, request: bytes, **options: Any) -> Any:
    """Makes a call; returns it, or the error that ended it."""
    with grpc.insecure_channel(address) as channel:
        try:
            return channel.unary_unary(ANALYZE).with_call(request, timeout=10, **options)[1]
        except grpc.RpcError as error:
            return error


def texts(*words: str) -> bytes:
    return sentiment_pb2.AnalyzeRequest(texts=words).SerializeToString()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for(path: Path, count: int) -> list[dict[str, Any]]:
    until = time.monotonic() + 5
    while (not path.exists() or len(lines(path)) < count) and time.monotonic() < until:
        time.sleep(0.02)
    return lines(path)


@contextlib.contextmanager
def logging_endpoint(folder: Path, model: Any = None, **options: Any):
    path = folder / "access.jsonl"
    models = [endpoints.loaded("sentiment", model or endpoints.Gate())]
    with endpoints.serving(models, folder / "metrics", access_log=str(path), **options) as endpoint:
        yield endpoint, path


def a_visit(request_id: str = "one") -> visits.Visit:
    return visits.Visit(request_id, False, "ipv4:127.0.0.1:9", 3, None)


def dropped_count(folder: Path) -> float:
    (line,) = [one for one in metrics.scrape(folder).decode().splitlines() if one.startswith("eagerly_access_log")]
    return float(line.split()[-1])


def test_a_line_says_who_asked_what_and_which_model_answered(tmp_path: Path):
    with logging_endpoint(tmp_path) as (endpoint, path):
        answered = call(endpoint.address, texts("one", "two"), metadata=[(visits.REQUEST_ID, "order-17")])
        (line,) = wait_for(path, 1)
    assert list(line) == KEYS
    assert {key: line[key] for key in ("request_id", "method", "code", "items", "principal", "peer")} == {
        "request_id": "order-17",
        "method": "eagerly.v1.Sentiment/Analyze",
        "code": "OK",
        "items": 2,
        "principal": None,
        "peer": "127.0.0.1",
    }
    trailers = endpoints.trailers(answered)
    assert trailers[visits.REQUEST_ID] == "order-17"
    for name, key in (
        ("model", "model"),
        ("version", "model-version"),
        ("run_id", "run-id"),
        ("digest", "model-digest"),
    ):
        assert line[name] == trailers[f"eagerly-{key}"]
    assert line["request_bytes"] == len(texts("one", "two"))
    assert line["reply_bytes"] > 0
    assert 0 <= line["queue_ms"] + line["compute_ms"] <= line["duration_ms"]
    assert 5000 < line["deadline_left_ms"] <= 11_000
    assert line["time"].endswith("Z")
    assert abs(datetime.fromisoformat(line["time"]).timestamp() - time.time()) < 30


def test_a_refused_call_has_a_line_too(tmp_path: Path):
    with logging_endpoint(tmp_path) as (endpoint, path):
        refused = call(endpoint.address, b"")
        call(endpoint.address, texts("good", ""))
        first, second = wait_for(path, 2)
    assert (first["code"], first["items"], first["reply_bytes"], first["compute_ms"]) == (
        "INVALID_ARGUMENT",
        0,
        0,
        None,
    )
    assert first["model"] == "sentiment"
    assert endpoints.trailers(refused)[visits.REQUEST_ID] == first["request_id"]
    assert (second["code"], second["items"]) == ("OK", 2)


def test_an_internal_error_shows_the_caller_the_id_that_both_logs_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with logging_endpoint(tmp_path) as (endpoint, path), caplog.at_level(logging.ERROR):
        failed = call(endpoint.address, texts("explode"))
        (line,) = wait_for(path, 1)
    status = status_pb2.Status.FromString(endpoints.trailers(failed)["grpc-status-details-bin"])
    told = error_details_pb2.RequestInfo()
    assert status.details[0].Unpack(told)
    assert line["code"] == "INTERNAL"
    assert told.request_id == line["request_id"] == endpoints.trailers(failed)[visits.REQUEST_ID]
    assert told.request_id in caplog.text
    assert "secret" not in path.read_text()


@pytest.mark.parametrize("given", ["x" * 65, "two words", "", "naïve"])
def test_an_ill_formed_request_id_is_replaced(tmp_path: Path, given: str):
    ids = visits.RequestIds()
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", ids.of(given)[0])
    assert ids.of(None) != ids.of(None)


def test_nothing_is_logged_and_no_id_returned_unless_asked(tmp_path: Path):
    with endpoints.serving([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path) as endpoint:
        answered = call(endpoint.address, texts("one"), metadata=[(visits.REQUEST_ID, "order-17")])
    assert visits.REQUEST_ID not in endpoints.trailers(answered)


def test_an_id_is_returned_to_those_who_sent_one_or_failed(tmp_path: Path):
    with logging_endpoint(tmp_path) as (endpoint, path):
        answers = [call(endpoint.address, texts("one")), call(endpoint.address, b"")]
        ids = [line["request_id"] for line in wait_for(path, 2)]
    assert [endpoints.trailers(answer).get(visits.REQUEST_ID) for answer in answers] == [None, ids[1]]
    assert ids[0] != ids[1]


def test_payloads_are_logged_only_when_asked_and_only_in_part(tmp_path: Path):
    with logging_endpoint(tmp_path / "without") as (endpoint, path):
        call(endpoint.address, texts("confidential"))
        wait_for(path, 1)
        assert "confidential" not in path.read_text()
        assert not {"request", "reply"} & set(lines(path)[0])
    with logging_endpoint(tmp_path / "with", log_payloads=8) as (endpoint, path):
        call(endpoint.address, texts("confidential"))
        (line,) = wait_for(path, 1)
    assert base64.b64decode(line["request"]) == texts("confidential")[:8]
    assert len(base64.b64decode(line["reply"])) == 8


def test_small_payloads_take_the_room_that_they_need_and_not_what_the_flag_allows(tmp_path: Path):
    figures = metrics.Metrics(tmp_path / "metrics")
    log = access_log.AccessLog(str(tmp_path / "access.jsonl"), 65_536, figures)
    for number in range(1000):
        log.add("m", a_visit(str(number)), 0, 0.1, b"request", b"reply")
    log.close()
    assert len(lines(tmp_path / "access.jsonl")) == 1000
    assert dropped_count(tmp_path / "metrics") == 0
    figures.close()


def test_every_call_has_its_line_when_the_endpoint_has_drained(tmp_path: Path):
    with logging_endpoint(tmp_path) as (endpoint, path), Client(endpoint.address) as client:
        for number in range(200):
            client.analyze([str(number)])
    assert len({line["request_id"] for line in lines(path)}) == 200


def test_a_moved_file_is_followed_by_a_new_one_and_no_line_is_lost(tmp_path: Path):
    with logging_endpoint(tmp_path) as (endpoint, path), Client(endpoint.address) as client:
        for number in range(100):
            client.analyze([str(number)])
            if number == 50:
                wait_for(path, 51)
                path.rename(tmp_path / "access.jsonl.1")
    before, after = lines(tmp_path / "access.jsonl.1"), lines(path)
    assert len(before) >= 51
    assert after
    assert len({line["request_id"] for line in before + after}) == 100


def test_processes_share_a_file_and_no_line_is_torn(tmp_path: Path):
    path = tmp_path / "access.jsonl"
    command = [sys.executable, "-c", WRITER, str(path), str(tmp_path / "metrics")]
    writers = [subprocess.Popen([*command, name]) for name in ("a", "b", "c")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len({line["request_id"] for line in lines(path)}) == 6000
    assert dropped_count(tmp_path / "metrics") == 0


def test_a_full_disk_loses_lines_that_are_counted_and_never_tears_one(tmp_path: Path):
    program = f"""
import json, resource, signal, sys, time
from pathlib import Path
from services import access_log, metrics, visits
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, figures = Path({str(tmp_path / "log")!r}), metrics.Metrics(Path({str(tmp_path)!r}))
log = access_log.AccessLog(str(path), 0, figures)
resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, resource.RLIM_INFINITY))
def add(name, count):
    for number in range(count):
        log.add("m", visits.Visit(f"{{name}}-{{number}}", False, "unix:", 3, None), 0, 0.1, b"", b"")
add("full", 1000)
time.sleep(0.5)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
add("free", 10)
log.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    whole, torn = [], []
    for line in (tmp_path / "log").read_text().splitlines():
        try:
            whole.append(json.loads(line)["request_id"])
        except ValueError:
            torn.append(line)
    assert {f"free-{number}" for number in range(10)} <= set(whole)
    assert len(torn) <= 1
    assert len(whole) + dropped_count(tmp_path) == 1010


def test_a_reader_that_does_not_read_costs_lines_and_never_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access_log, "MOST_BYTES", 100_000)
    monkeypatch.setattr(access_log, "CLOSE_S", 0.5)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    figures = metrics.Metrics(tmp_path / "metrics")
    log = access_log.AccessLog(str(pipe), 0, figures)
    began = time.monotonic()
    for batch in range(4):
        for number in range(500):
            log.add("m", a_visit(f"{batch}-{number}"), 0, 0.1, b"", b"")
        time.sleep(0.25)
    assert log.waiting_count < 500
    log.close()
    assert time.monotonic() - began < 5
    received = b""
    while "access-log" in {thread.name for thread in threading.enumerate()}:
        with contextlib.suppress(BlockingIOError):
            received += os.read(reader, 1 << 20)
        time.sleep(0.01)
    with contextlib.suppress(BlockingIOError):
        received += os.read(reader, 1 << 20)
    written = [json.loads(line) for line in received.splitlines()]
    assert 0 < len(written) < 2000
    assert len(written) + dropped_count(tmp_path / "metrics") == 2000
    os.close(reader)
    figures.close()


def test_a_minus_means_standard_error(tmp_path: Path):
    program = WRITER.replace("range(2000)", "range(3)")
    command = [sys.executable, "-c", program, "-", str(tmp_path), "a"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert [json.loads(line)["request_id"] for line in shown.splitlines()] == ["a-0", "a-1", "a-2"]


def test_a_file_that_cannot_be_opened_is_refused_in_a_sentence(tmp_path: Path):
    figures = metrics.Metrics(tmp_path)
    with pytest.raises(ValueError, match=r"--access-log .*nowhere/log cannot be opened .No such file"):
        access_log.AccessLog(str(tmp_path / "nowhere" / "log"), 0, figures)
    figures.close()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"log_payloads": 10}, "--log-payloads needs --access-log"),
        ({"access_log": "a", "log_payloads": -1}, "--log-payloads is -1"),
        ({"access_log": "a", "log_payloads": 65_537}, "--log-payloads is 65537; it must be 0 to 65536"),
        ({"otlp_endpoint": "collector:4318"}, "--otlp-endpoint is 'collector:4318'"),
        ({"trace_ratio": 1.5}, "--trace-ratio is 1.5; it must be 0 to 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        Options(**flags)


def test_a_name_with_quotes_stays_in_its_field(tmp_path: Path):
    figures = metrics.Metrics(tmp_path / "metrics")
    log = access_log.AccessLog(str(tmp_path / "log"), 0, figures)
    visit = visits.Visit('a"},\\', True, "ipv6:%5B::1%5D:5", 3, 1.0)
    visit.principal = 'eve"\n{"code":"OK"}'
    log.add("m", visit, 0, 0.1, b"", b"")
    log.close()
    (line,) = lines(tmp_path / "log")
    assert (line["request_id"], line["principal"], line["peer"]) == ('a"},\\', 'eve"\n{"code":"OK"}', "::1")
    figures.close()
