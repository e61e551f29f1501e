import contextlib
import http.client
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import endpoints
import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from eagerly.client import CallError, Client
from services import metrics
from services.exposition import MetricsServer

ROOT = Path(__file__).resolve().parents[2]
DROPPED = ("eagerly_access_log_dropped_total",)
REQUESTED = ("eagerly_requests_total", "OK", "Analyze", "sentiment")
RESTARTING = """
import os, signal, sys
from pathlib import Path
from services import metrics
for number in range(int(sys.argv[2])):
    mine = metrics.Metrics(Path(sys.argv[1]))
    mine.value(metrics.REQUESTS, "sentiment", "Analyze", "OK").add(1)
    mine.value(metrics.IN_FLIGHT, "sentiment", "Analyze").set(1)
    mine.histogram(metrics.BATCH_SIZE, "sentiment").observe([3])
    if number < int(sys.argv[2]) - 1:
        mine.close()
    if number % 20 == 0:
        print("restarted", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BURYING = """
import os, shutil, signal, sys
from pathlib import Path
from services import metrics
left = int(sys.argv[2])
def killing(event, arguments):
    global left
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "open") and sys.argv[1] in str(arguments[0]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(killing)
metrics.scrape(Path(sys.argv[1]))
"""
OTHER_REPLICA = """
import sys
from pathlib import Path
from services import metrics
mine = metrics.Metrics(Path(sys.argv[1]))
mine.value(metrics.REQUESTS, "sentiment", "Analyze", "OK").add(5)
mine.value(metrics.IN_FLIGHT, "sentiment", "Analyze").set(3)
mine.value(metrics.MODEL_INFO, "sentiment", "8", "other-run", "ff").set(1)
mine.histogram(metrics.BATCH_SIZE, "sentiment").observe([3])
print("counted", flush=True)
sys.stdin.read()
"""


def read(text: bytes) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    samples = [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]
    return {(one.name, *(one.labels[key] for key in sorted(one.labels))): one.value for one in samples}


def scrape(endpoint: endpoints.Endpoint, calls: int) -> str:
    """The metrics once all calls are counted, which happens when their replies are on their way."""
    until = time.monotonic() + 5
    while True:
        text = urllib.request.urlopen(endpoint.metrics).read().decode()
        counted = sum(value for key, value in read(text.encode()).items() if key[0] == "eagerly_requests_total")
        if counted >= calls or time.monotonic() > until:
            return text
        time.sleep(0.01)


@pytest.fixture
def other_replica(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has counted into the same folder."""
    command = [sys.executable, "-c", OTHER_REPLICA, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "counted\n"
        yield process
        process.kill()


def test_every_metric_is_there_after_one_call_with_the_labels_of_the_table(tmp_path: Path):
    model = endpoints.Gate()
    with endpoints.serving([endpoints.loaded("sentiment", model)], tmp_path) as endpoint:
        with Client(endpoint.address) as client:
            client.analyze(["one"])
        text = scrape(endpoint, calls=1)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for metric in metrics.TABLE:
        family = families[metric.name.removesuffix("_total")]
        assert all(set(sample.labels) - {"le"} == set(metric.labels) for sample in family.samples)
        assert family.samples
    figures = read(text.encode())
    assert figures["eagerly_requests_total", "OK", "Analyze", "sentiment"] == 1
    assert figures["eagerly_items_total", "OK", "Analyze", "sentiment"] == 1
    assert figures["eagerly_request_duration_seconds_count", "Analyze", "sentiment"] == 1
    assert figures["eagerly_queue_duration_seconds_count", "sentiment"] == 1
    assert figures["eagerly_compute_duration_seconds_count", "sentiment"] == 1
    assert figures["eagerly_batch_size_sum", "sentiment"] == 1
    assert figures["eagerly_in_flight_requests", "Analyze", "sentiment"] == 0
    assert figures["eagerly_model_info", "0123abcd" * 8, "run-of-sentiment", "sentiment", "7"] == 1


def test_no_label_takes_a_value_from_a_caller(tmp_path: Path):
    with endpoints.serving([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path) as endpoint:
        with Client(endpoint.address) as client:
            for number in range(50):
                client.analyze([f"caller {number}", ""])
            with pytest.raises(CallError):
                client.analyze([])
        figures = read(scrape(endpoint, calls=51).encode())
    counters = ("eagerly_requests_total", "eagerly_items_total")
    assert {key: value for key, value in figures.items() if key[0] in counters and value} == {
        ("eagerly_requests_total", "OK", "Analyze", "sentiment"): 50,
        ("eagerly_requests_total", "INVALID_ARGUMENT", "Analyze", "sentiment"): 1,
        ("eagerly_items_total", "OK", "Analyze", "sentiment"): 50,
        ("eagerly_items_total", "INVALID_ARGUMENT", "Analyze", "sentiment"): 50,
    }


def test_one_scrape_answers_for_every_process(tmp_path: Path, other_replica: "subprocess.Popen[str]"):
    mine = metrics.Metrics(tmp_path)
    mine.value(metrics.REQUESTS, "sentiment", "Analyze", "OK").add(2)
    mine.value(metrics.IN_FLIGHT, "sentiment", "Analyze").set(1)
    mine.histogram(metrics.BATCH_SIZE, "sentiment").observe([1])
    figures = read(metrics.scrape(tmp_path))
    assert figures["eagerly_requests_total", "OK", "Analyze", "sentiment"] == 7
    assert figures["eagerly_in_flight_requests", "Analyze", "sentiment"] == 4
    assert figures["eagerly_batch_size_count", "sentiment"] == 2
    assert figures["eagerly_batch_size_sum", "sentiment"] == 4
    mine.close()


def test_a_dead_process_leaves_its_counts_and_takes_its_gauges(tmp_path: Path, other_replica: "subprocess.Popen[str]"):
    mine = metrics.Metrics(tmp_path)
    mine.value(metrics.IN_FLIGHT, "sentiment", "Analyze").set(1)
    other_replica.kill()
    until = time.monotonic() + 5
    while len(metrics.alive_pids(tmp_path)) > 1 and time.monotonic() < until:
        time.sleep(0.01)  # killed but not waited for: a zombie, whose process id still exists
    figures = read(metrics.scrape(tmp_path))
    assert figures["eagerly_requests_total", "OK", "Analyze", "sentiment"] == 5
    assert figures["eagerly_in_flight_requests", "Analyze", "sentiment"] == 1
    assert not [key for key in figures if key[0] == "eagerly_model_info"]
    mine.close()


def test_a_process_that_closes_takes_its_gauges_away(tmp_path: Path):
    mine = metrics.Metrics(tmp_path)
    mine.value(metrics.IN_FLIGHT, "sentiment", "Analyze").set(1)
    mine.value(metrics.REQUESTS, "sentiment", "Analyze", "OK").add(1)
    mine.close()
    figures = read(metrics.scrape(tmp_path))
    assert figures == {("eagerly_requests_total", "OK", "Analyze", "sentiment"): 1, DROPPED: 0}


def test_a_process_that_uses_an_old_process_id_goes_on_counting(tmp_path: Path):
    for _ in range(2):
        mine = metrics.Metrics(tmp_path)
        mine.value(metrics.REQUESTS, "sentiment", "Analyze", "OK").add(1)
        mine.close()
    assert read(metrics.scrape(tmp_path))["eagerly_requests_total", "OK", "Analyze", "sentiment"] == 2


def test_the_metrics_port_answers_get_metrics_only(tmp_path: Path):
    server = MetricsServer("127.0.0.1", 0, tmp_path)
    try:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/")
        for method in ("POST", "PUT", "DELETE"):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
            connection.request(method, "/metrics")
            assert connection.getresponse().status == 501
            connection.close()
    finally:
        server.close()


def test_replicas_share_the_metrics_port(tmp_path: Path):
    first = MetricsServer("127.0.0.1", 0, tmp_path)
    second = MetricsServer("127.0.0.1", first.port, tmp_path)
    first.close()
    assert urllib.request.urlopen(f"http://127.0.0.1:{second.port}/metrics").status == 200
    second.close()


def documented(page: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The type and labels of each metric in the table of a page."""
    rows = re.findall(r"^\| `(eagerly_\w+)` \| (\w+) \| ([\w, ]*)\|", (ROOT / page).read_text(), re.MULTILINE)
    return {name: (kind, tuple(labels.strip().split(", ")) if labels.strip() else ()) for name, kind, labels in rows}


def test_the_documentation_names_every_metric_with_its_type_and_labels():
    every = (*metrics.TABLE, *metrics.DRIFT, metrics.CERTIFICATE_END)
    told = documented("docs/observability.md")
    assert told == {one.name: (one.kind.partition("_")[0], one.labels) for one in every}
    assert told.items() >= documented("README.md").items() != set()


def test_types_and_labels_on_the_port_are_those_of_the_table(tmp_path: Path):
    with endpoints.serving([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path) as endpoint:
        with Client(endpoint.address) as client:
            client.analyze(["one"])
        text = scrape(endpoint, calls=1)
    found = {
        family.name: (family.type, {frozenset(sample.labels) - {"le"} for sample in family.samples})
        for family in text_string_to_metric_families(text)
    }
    assert found == {
        one.name.removesuffix("_total"): (one.kind.partition("_")[0], {frozenset(one.labels)}) for one in metrics.TABLE
    }


def test_a_model_that_is_no_longer_served_is_not_shown(tmp_path: Path):
    mine = metrics.Metrics(tmp_path)
    for version in range(100):
        info = mine.value(metrics.MODEL_INFO, "sentiment", str(version), "run", "digest")
        info.set(1)
        info.set(0)
    mine.value(metrics.MODEL_INFO, "sentiment", "100", "run", "digest").set(1)
    figures = read(metrics.scrape(tmp_path))
    assert [key[-1] for key in figures if key[0] == "eagerly_model_info"] == ["100"]
    mine.close()


def test_callers_cannot_make_series(tmp_path: Path):
    words = {"x-request-id": "id-{}", "user": "user-{}", "user-agent": "agent-{}", "authorization": "Bearer {}"}
    models = [endpoints.loaded(name, endpoints.Gate()) for name in ("sentiment",)]
    with endpoints.serving(models, tmp_path / "metrics", access_log=str(tmp_path / "log")) as endpoint:
        known = ("/eagerly.v1.Sentiment/Analyze", "/inference.GRPCInferenceService/ModelInfer")
        with grpc.insecure_channel(endpoint.address) as channel:
            sizes = []
            for start in (0, 300, 600):
                for number in range(start, start + 300):
                    metadata = tuple((key, value.format(number)) for key, value in words.items())
                    paths = (*known, f"/eagerly.v1.Sentiment/M{number}", f"/s{number}/M")
                    name = f"model-{number}".encode()
                    request = b"\x0a" + bytes([len(name)]) + name  # a text, or a model's name
                    for path in paths:
                        with contextlib.suppress(grpc.RpcError):
                            channel.unary_unary(path)(request, metadata=metadata, timeout=10)
                figures = read(scrape(endpoint, calls=2 * (start + 300)).encode())
                sizes.append(len(figures))
    assert sizes[0] == sizes[1] == sizes[2]
    assert not [key for key in figures if re.search(r"M\d|s\d|(model|id|user|agent)-\d|Bearer|UNIMPL", " ".join(key))]
    assert sum(value for key, value in figures.items() if key[0] == "eagerly_requests_total") == 1800


def test_counts_only_rise_and_files_stay_few_over_restarts_and_kills(tmp_path: Path):
    total = 0.0
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", RESTARTING, str(tmp_path), "100"], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                assert line == "restarted\n"
                counted = read(metrics.scrape(tmp_path)).get(REQUESTED, 0.0)
                assert counted >= total
                total = counted
    figures = read(metrics.scrape(tmp_path))
    assert figures[REQUESTED] == 10 * 100
    assert figures["eagerly_batch_size_count", "sentiment"] == 10 * 100
    assert figures["eagerly_batch_size_sum", "sentiment"] == 10 * 300
    assert not [key for key in figures if key[0] == "eagerly_in_flight_requests"]
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "counter_0.db", "histogram_0.db"}


@pytest.mark.parametrize("step", range(4, 20))
def test_a_process_killed_while_it_buries_loses_and_doubles_nothing(tmp_path: Path, step: int):
    for program in (OTHER_REPLICA.replace("sys.stdin.read()", ""), KILLED_BURYING):
        subprocess.run([sys.executable, "-c", program, str(tmp_path), str(step)], check=False, capture_output=True)
    figures = read(metrics.scrape(tmp_path))
    assert figures[REQUESTED] == 5
    assert figures["eagerly_batch_size_count", "sentiment"] == 1
    assert read(metrics.scrape(tmp_path)) == figures


def test_scrapes_and_burials_at_once_agree(tmp_path: Path):
    for _ in range(5):
        subprocess.run(
            [sys.executable, "-c", OTHER_REPLICA, str(tmp_path)], stdin=subprocess.DEVNULL, check=True, timeout=60
        )
    with ThreadPoolExecutor(8) as pool:
        totals = set(pool.map(lambda _: read(metrics.scrape(tmp_path))[REQUESTED], range(40)))
    assert totals == {25}
