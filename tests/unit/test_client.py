import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import endpoints
import keys
import psutil
import pytest

from eagerly import connection
from eagerly.aio import AsyncClient
from eagerly.client import CallError, Client, Query, Raw, Tls
from services import tokens


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with (
        endpoints.serving(list(endpoints.real_models()), tmp_path_factory.mktemp("metrics")) as running,
        Client(running.address) as opened,
    ):
        yield opened


def test_images_are_labelled_with_as_many_labels_as_asked_for(client: Client):
    encoded, raw = endpoints.real_models()[0].model.examples()
    results = client.classify([encoded, Raw(raw.tobytes(), raw.shape)], top_k=4)
    assert [len(result.labels) for result in results] == [4, 4]
    assert all(result.error is None for result in results)
    scores = [label.score for label in results[0].labels]
    assert scores == sorted(scores, reverse=True)


def test_texts_are_labelled_in_any_language(client: Client):
    results = client.analyze(["What a film!", "这部电影真好看。"])
    assert [{label.label for label in result.labels} for result in results] == [{"positive", "negative"}] * 2


def test_items_are_recommended_with_titles(client: Client):
    user = endpoints.real_models()[2].model.catalogue.user_ids[0]
    (result,) = client.recommend([Query(user_id=user, k=7)])
    assert len(result.items) == 7
    assert all(item.title for item in result.items)


def test_results_name_the_model_that_answered(client: Client):
    (result,) = client.analyze(["fine"])
    assert result.provenance.model == "sentiment"
    assert result.provenance.version == "7"
    assert result.provenance.run_id == "run-of-sentiment"


def test_a_bad_item_has_an_error_of_its_own(client: Client):
    good, bad = client.analyze(["fine", ""])
    assert good.error is None
    assert bad.error is not None
    assert bad.error.code == "INVALID_ARGUMENT"
    assert bad.error.violations[0].field == "texts[1]"
    assert not bad.labels


def test_a_bad_call_raises_with_code_and_field(client: Client):
    with pytest.raises(CallError) as refused:
        client.analyze([])
    assert refused.value.code == "INVALID_ARGUMENT"
    assert refused.value.violations[0].field == "texts"


def test_an_error_carries_its_limit_and_no_time_where_none_helps(client: Client):
    (result,) = client.analyze(["x" * 10_001])
    assert result.error is not None
    assert (result.error.reason, dict(result.error.metadata)) == ("TOO_LONG", {"limit": "10000"})
    assert result.error.retry_after_s is None
    with pytest.raises(CallError) as refused:
        client.analyze([])
    assert (dict(refused.value.metadata), refused.value.retry_after_s) == ({}, None)


def test_an_endpoint_that_is_full_says_in_how_many_seconds_it_may_have_room(tmp_path: Path):
    gate = endpoints.Gate()
    models = [endpoints.loaded("sentiment", gate)]
    few = {"max_items": 1, "max_waiting": 1, "inline": False}
    with endpoints.serving(models, tmp_path, **few) as running, Client(running.address, connections=3) as client:
        gate.open.clear()
        gate.computing.clear()
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(client.analyze, ["first"])
            assert gate.computing.wait(10)
            others = [pool.submit(client.analyze, [text]) for text in ("second", "third")]
            (refused,) = wait(others, 10, FIRST_COMPLETED).done
            gate.open.set()
        error = refused.exception()
        assert isinstance(error, CallError)
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert error.retry_after_s is not None and 0 < error.retry_after_s < 10
        assert [one.result()[0].error for one in (first, *others) if one is not refused] == [None, None]


def test_the_endpoint_and_its_services_are_healthy(client: Client):
    assert client.healthy()
    assert client.healthy("eagerly.v1.Classifier")
    with pytest.raises(CallError, match="NOT_FOUND"):
        client.healthy("eagerly.v1.Assistant")


def test_a_call_to_nobody_ends_at_its_deadline():
    with Client(f"127.0.0.1:{free_port()}", timeout_s=0.3) as client:
        began = time.monotonic()
        with pytest.raises(CallError, match="DEADLINE_EXCEEDED"):
            client.analyze(["anybody?"])
        assert 0.2 < time.monotonic() - began < 2


def test_a_client_that_does_not_wait_says_unavailable():
    client = Client(f"127.0.0.1:{free_port()}", timeout_s=10, wait_for_ready=False)
    with client, pytest.raises(CallError, match="UNAVAILABLE"):
        client.analyze(["anybody?"])


def test_a_client_waits_for_a_server_that_starts_late(tmp_path: Path):
    port = free_port()
    running = endpoints.Endpoint([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path, port=port)
    with Client(f"127.0.0.1:{port}", timeout_s=15) as client:
        endpoints.asyncio.run_coroutine_threadsafe(start_late(running), running.loop)
        assert client.analyze(["patience"])[0].labels[0].label == "patience"
    running.run(running.server.drain())
    running.close()


def test_the_client_imports_nothing_heavy():
    code = "import sys, eagerly.client; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "ray", "mlflow", "numpy", "pandas", "services", "pipelines", "prometheus_client"}


async def start_late(running: endpoints.Endpoint) -> None:
    await endpoints.asyncio.sleep(0.3)
    await running.server.start()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_twin_for_asyncio_gives_the_same_answers(client: Client):
    encoded, _ = endpoints.real_models()[0].model.examples()
    user = endpoints.real_models()[2].model.catalogue.user_ids[0]

    async def ask() -> Any:
        async with AsyncClient(client.address, connections=2) as twin:
            calls = twin.classify([encoded]), twin.analyze(["fine"]), twin.recommend([Query(user)])
            return await endpoints.asyncio.gather(*calls)

    assert [*endpoints.asyncio.run(ask())] == [
        client.classify([encoded]),
        client.analyze(["fine"]),
        client.recommend([Query(user)]),
    ]


def test_the_twin_raises_the_same_errors(client: Client):
    async def ask() -> None:
        async with AsyncClient(client.address) as twin:
            await twin.analyze([])

    with pytest.raises(CallError) as refused:
        endpoints.asyncio.run(ask())
    assert (refused.value.code, refused.value.reason) == ("INVALID_ARGUMENT", "EMPTY")
    assert refused.value.violations[0].field == "texts"


def test_the_twin_asks_for_health_too(client: Client):
    async def ask() -> list[bool]:
        async with AsyncClient(client.address) as twin:
            with pytest.raises(CallError, match="NOT_FOUND"):
                await twin.healthy("eagerly.v1.Assistant")
            return [await twin.healthy(), await twin.healthy("eagerly.v1.Classifier")]

    assert endpoints.asyncio.run(ask()) == [True, True]


def test_calls_take_turns_on_several_connections(tmp_path: Path):
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with (
        endpoints.serving(models, tmp_path / "metrics") as running,
        Client(running.address, connections=3) as client,
    ):
        for _ in range(6):
            client.analyze(["turn"])
        port, own = running.server.port, psutil.Process()
        made = [one for one in own.net_connections("tcp") if one.raddr and one.raddr.port == port]
        assert len(made) == 3


def test_a_token_opens_an_endpoint_over_tls_with_a_certificate_of_ones_own(tmp_path: Path):
    authority = keys.certificate("authority")
    cert, key = keys.certificate("localhost", authority).write(tmp_path, "server")
    mine = keys.certificate("ann", authority).write(tmp_path, "ann")
    (tmp_path / "ca.crt").write_bytes(authority.cert)
    token, line = tokens.issue("ann", ("*",))
    (tmp_path / "tokens").write_text(line)
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    locks = {"tls_cert": cert, "tls_key": key, "client_ca": tmp_path / "ca.crt", "tokens": tmp_path / "tokens"}
    with endpoints.serving(models, tmp_path / "metrics", **locks) as running:
        address, tls = f"localhost:{running.server.port}", Tls(tmp_path / "ca.crt", *mine)
        with Client(address, tls=tls, token=token) as client:
            assert client.analyze(["fine"])[0].labels
        with Client(address, tls=tls) as nobody, pytest.raises(CallError, match="UNAUTHENTICATED"):
            nobody.analyze(["fine"])
        with Client(address, 2, False, tls=Tls(tmp_path / "ca.crt")) as bare, pytest.raises(CallError):
            bare.healthy()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"token": "t"}, "in the clear"),
        ({"connections": 0}, "must be 1 to 64"),
        ({"token": "a\nb", "address": "127.0.0.1:1"}, "printable ASCII"),
        ({"tls": Tls(Path("nowhere.pem"))}, "nowhere.pem cannot be read"),
        ({"tls": Tls(cert=Path("mine.pem"))}, "need each other"),
        ({"tls": Tls(Path(__file__))}, r"test_client\.py holds no certificate in PEM"),
        *(({"timeout_s": wrong}, "timeout_s is .* more than 0 seconds") for wrong in (math.inf, math.nan, -1, 0, 1e12)),
    ],
)
def test_what_would_not_work_is_refused_before_any_call(settings: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        Client(**{"address": "example.org:443", **settings})
    with pytest.raises(ValueError, match=sentence):
        AsyncClient(**{"address": "example.org:443", **settings})


def test_a_watcher_of_health_does_not_keep_a_server_from_stopping(tmp_path: Path):
    running = endpoints.Endpoint([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path)
    running.run(running.server.start())
    with Client(running.address) as client:  # its service config has gRPC watch health on every connection
        assert client.analyze(["fine"])
        began = time.monotonic()
        running.run(running.server.drain())
        assert time.monotonic() - began < 3  # --drain-s is 5 here
    running.close()


def test_the_service_config_is_json_that_any_language_can_take():
    shipped = json.loads(connection.service_config())
    (policy,) = [one["retryPolicy"] for one in shipped["methodConfig"] if "retryPolicy" in one]
    assert policy["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
    assert shipped["retryThrottling"] and shipped["healthCheckConfig"] == {"serviceName": ""}
