"""`eagerly demo`: the main job from data to reply, on embedded data: train, register, serve, call, measure."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from eagerly import steps, table, usage
from eagerly.client import Client, Query
from eagerly.commands import train
from eagerly.commands.serve import Running, Serve, serving
from pipelines import tasks, tracking
from pipelines.settings import Launch

HELP = """usage: eagerly demo

Trains classifier, sentiment and recommender on embedded data with two Ray Train workers, logs them to MLflow,
registers them, serves them over gRPC, calls each with examples it has not seen, and shows the metrics of those calls.
The environment variable KEEP=1 leaves everything running until Ctrl-C, with Ray's dashboard and MLflow's pages."""
SHOWN = 4
"""Examples a service."""


def main(words: list[str]) -> int:
    """Runs the demo; returns 1 when a reply is not what a trained model gives."""
    if words:
        if words[0] in usage.HELP:
            print(HELP)
            return 0
        raise ValueError(f"`eagerly demo` takes no flags, and was given {words[0]!r}")
    keep = os.environ.get("KEEP", "") not in ("", "0")
    from pipelines import launch as ray_launch

    began = time.monotonic()
    launch = Launch(workers=2)
    _say(began, "training on two workers: starting Ray")
    with _ray(ray_launch, launch, keep) as dashboard:
        code = train.train(*train.plan(["all", "--workers", "2"]), ends_here=False)
        if code:
            return code
        _say(began, "serving the champions")
        with serving(Serve(port=9000 if keep else 0, metrics_port=9090 if keep else 0)) as running:
            _say(began, f"calling the services at {running.address}")
            right = _call(running)
            _say(began, "what Prometheus sees of those calls")
            print(_figures(running))
            if keep:
                _keep(running, dashboard)
        _say(began, "stopping")
    _say(began, "done")
    steps.show("eagerly serve", "eagerly models list", *steps.pages(tracking.uri()))
    return 0 if right else 1


def _say(began: float, what: str) -> None:
    print(f"\n== {time.monotonic() - began:4.0f} s  {what}", flush=True)


@contextlib.contextmanager
def _ray(ray_launch: Any, launch: Launch, dashboard: bool) -> Iterator[str]:
    import ray

    try:
        yield ray_launch.start_ray(launch, dashboard)
    finally:
        ray.shutdown()


def _call(running: Running) -> bool:
    """Calls each service with test examples and prints replies beside what was expected."""
    with Client(running.address, timeout_s=30) as client:
        return all([_classify(client), _analyze(client), _recommend(client)])


def _data(name: str) -> Any:
    task = tasks.find(name)
    return task.data.load(task.config.Config())


def _classify(client: Client) -> bool:
    from PIL import Image

    data = _data("classifier")
    rows, right = [], 0
    for at in range(0, SHOWN * 10, 10):
        file = io.BytesIO()
        Image.fromarray(data.test.images[at, 0].numpy()).save(file, "PNG")
        reply = client.classify([file.getvalue()], top_k=1)[0]
        expected = data.labels[int(data.test.targets[at])]
        right += reply.labels[0].label == expected
        rows.append((f"digit, test image {at}", expected, reply.labels[0].label, reply.labels[0].score))
    print(table.render(("classifier", "expected", "reply", "score"), rows), "\n")
    return right > SHOWN // 2


def _analyze(client: Client) -> bool:
    task = tasks.find("sentiment")
    config = task.config.Config()
    rows_N = task.data.rows_of(config)
    held_back = [rows_N[at] for at in task.data.split([text for text, *_ in rows_N], config.seed)[2]]
    chinese = [row for row in held_back if ord(row[0][0]) > 0x2E80]
    english = [row for row in held_back if row not in chinese]
    asked = [*english[:: len(english) // SHOWN], *chinese[:: len(chinese) // SHOWN]]
    replies = client.analyze([text for text, *_ in asked])
    rows = [
        (_short(text), expected, reply.labels[0].label, reply.labels[0].score)
        for (text, expected, _), reply in zip(asked, replies, strict=True)
    ]
    print(table.render(("sentiment", "expected", "reply", "score"), rows), "\n")
    return sum(row[1] == row[2] for row in rows) > len(rows) // 2


def _short(text: str) -> str:
    width = 24 if ord(text[0]) > 0x2E80 else 48
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _recommend(client: Client) -> bool:
    """Shows readers by what they are known to have, and looks for what was held back among the replies."""
    data = _data("recommender")
    rows, hits = [], 0
    for user in (data.held_back.sizes().argsort(descending=True)[:SHOWN]).tolist():
        has = [data.catalogue[item] for item in _items(data.known, user)]
        held = {data.catalogue[item].id for item in _items(data.held_back, user)}
        reply = client.recommend([Query(item_ids=tuple(item.id for item in has), k=10)])[0]
        found = sum(item.item_id in held for item in reply.items)
        hits += found
        rows.append(
            (_short(has[0].title), f"any of {len(held)} held back", _short(reply.items[0].title), f"{found} of 10")
        )
    print(table.render(("recommender: a reader of", "expected", "first of the reply", "hits"), rows))
    return hits > 0


def _items(histories: Any, user: int) -> list[int]:
    return histories.items[int(histories.offsets[user]) : int(histories.offsets[user + 1])].tolist()


def _figures(running: Running) -> str:
    """Puts the served metrics of the calls in a table."""
    with urllib.request.urlopen(running.metrics, timeout=10) as reply:
        text = reply.read().decode()
    samples = {
        (name, labels): float(value) for name, labels, value in re.findall(r"^(eagerly_\w+)\{(.*)\} (\S+)$", text, re.M)
    }
    rows = []
    for (name, labels), count in samples.items():
        if name == "eagerly_requests_total" and count:
            facts = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            seconds = _mean(samples, "eagerly_request_duration_seconds", facts["service"])
            compute = _mean(samples, "eagerly_compute_duration_seconds", facts["service"])
            rows.append((facts["service"], facts["method"], facts["code"], int(count), seconds * 1e3, compute * 1e3))
    header = ("service", "method", "code", "calls", "mean latency ms", "mean compute ms")
    return table.render(header, rows)


def _mean(samples: dict[tuple[str, str], float], name: str, service: str) -> float:
    sums = {
        part: sum(
            value
            for (found, labels), value in samples.items()
            if found == f"{name}_{part}" and f'service="{service}"' in labels
        )
        for part in ("sum", "count")
    }
    return sums["sum"] / max(1.0, sums["count"])


def pages_port() -> int:
    """Gives MLflow's usual port, or a free one where that is taken."""
    from services import ports

    try:
        return ports.find("127.0.0.1", 5000, "--port")
    except ValueError:
        return ports.find("127.0.0.1", 0, "--port")


def _keep(running: Running, dashboard: str) -> None:
    """Leaves everything running until Ctrl-C or SIGTERM, and says where."""
    port = pages_port()
    where = ["--backend-store-uri", tracking.uri(), "--host", "127.0.0.1", "--port", str(port)]
    pages = subprocess.Popen([sys.executable, "-m", "mlflow", "ui", *where], stderr=subprocess.DEVNULL)
    print(f"\ngRPC           {running.address}\nmetrics        {running.metrics}")
    print(f"MLflow         http://127.0.0.1:{port}\nRay dashboard  http://{dashboard}\nCtrl-C stops", flush=True)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        ended.wait()
    finally:
        pages.terminate()
        pages.wait()
