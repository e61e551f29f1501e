import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import endpoints
import pytest

from eagerly.client import CallError, Client, Query, Raw


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
