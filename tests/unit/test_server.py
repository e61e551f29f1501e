"""The server as callers see it: answers, health, reflection, trailers, deadlines and draining."""

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import endpoints
import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import proto_reflection_descriptor_database as reflected

from eagerly.connection import service_config
from eagerly.v1 import classifier_pb2, recommender_pb2, sentiment_pb2
from services.options import Options

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[endpoints.Endpoint]:
    """All three services with real models."""
    with endpoints.serving(list(endpoints.real_models()), tmp_path_factory.mktemp("metrics")) as running:
        yield running


@pytest.fixture(scope="module")
def channel(endpoint: endpoints.Endpoint) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(endpoint.address) as opened:
        yield opened


def analyze(channel: grpc.Channel, texts: list[str], timeout: float = 10) -> sentiment_pb2.AnalyzeResponse:
    method = channel.unary_unary(
        "/eagerly.v1.Sentiment/Analyze",
        sentiment_pb2.AnalyzeRequest.SerializeToString,
        sentiment_pb2.AnalyzeResponse.FromString,
    )
    return method(sentiment_pb2.AnalyzeRequest(texts=texts), timeout=timeout)


def health(channel: grpc.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Check(request, timeout=10, wait_for_ready=True).status


def test_every_service_answers_the_examples_of_its_model(channel: grpc.Channel):
    loaded = {one.name: one for one in endpoints.real_models()}
    encoded, raw = loaded["classifier"].model.examples()
    images = [
        classifier_pb2.Image(encoded=encoded),
        classifier_pb2.Image(raw=classifier_pb2.RawImage(data=raw.tobytes(), shape=raw.shape)),
    ]
    queries = [
        recommender_pb2.RecommendQuery(user_id=query.user_id, item_ids=query.item_ids, k=query.k)
        for query in loaded["recommender"].model.examples()
    ]
    requests = {
        "classifier": classifier_pb2.ClassifyRequest(images=images, top_k=10),
        "sentiment": sentiment_pb2.AnalyzeRequest(texts=loaded["sentiment"].model.examples()),
        "recommender": recommender_pb2.RecommendRequest(queries=queries),
    }
    for name, request in requests.items():
        service = loaded[name].service
        assert service is not None
        method = channel.unary_unary(f"/{service.descriptor.full_name}/{service.method.name}")
        response: Any = service.response.FromString(method(request.SerializeToString(), timeout=10))
        assert [result.status.code for result in response.results] == [0, 0]
        predicted = loaded[name].model.predict(loaded[name].model.examples())
        for result, prediction in zip(response.results, predicted, strict=True):
            best = result.items[0].item_id if name == "recommender" else result.labels[0].label
            assert best == (prediction.items if name == "recommender" else prediction.labels)[0][0]
            if name != "recommender":
                assert sum(label.score for label in result.labels) == pytest.approx(1, abs=1e-5)


def test_replies_name_the_model_that_answered(channel: grpc.Channel):
    method = channel.unary_unary("/eagerly.v1.Sentiment/Analyze")
    _, call = method.with_call(sentiment_pb2.AnalyzeRequest(texts=["fine"]).SerializeToString(), timeout=10)
    assert endpoints.trailers(call) == {
        "eagerly-model": "sentiment",
        "eagerly-model-version": "7",
        "eagerly-run-id": "run-of-sentiment",
        "eagerly-model-digest": "0123abcd" * 8,
    }


def test_refusals_name_the_model_too(channel: grpc.Channel):
    with pytest.raises(grpc.RpcError) as refused:
        analyze(channel, [])
    assert endpoints.trailers(refused.value)["eagerly-model-version"] == "7"


@pytest.mark.parametrize("service", ["", "eagerly.v1.Classifier", "eagerly.v1.Sentiment", "eagerly.v1.Recommender"])
def test_health_is_serving_for_the_endpoint_and_each_service(channel: grpc.Channel, service: str):
    assert health(channel, service) == SERVING


def test_health_of_a_service_that_is_not_here_is_not_found(channel: grpc.Channel):
    with pytest.raises(grpc.RpcError) as refused:
        health(channel, "eagerly.v1.Assistant")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services_and_describes_them(channel: grpc.Channel):
    database = reflected.ProtoReflectionDescriptorDatabase(channel)
    expected = {"eagerly.v1.Classifier", "eagerly.v1.Sentiment", "eagerly.v1.Recommender", "grpc.health.v1.Health"}
    assert expected <= set(database.get_services())
    described = database.FindFileContainingSymbol("eagerly.v1.Classifier")
    assert [method.name for method in described.service[0].method] == ["Classify"]


def test_reflection_answers_under_its_final_name_too(channel: grpc.Channel):
    from grpc_reflection.v1alpha import reflection_pb2 as pb

    ask = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        pb.ServerReflectionRequest.SerializeToString,
        pb.ServerReflectionResponse.FromString,
    )
    reply = next(ask(iter([pb.ServerReflectionRequest(list_services="")]), timeout=10))
    assert "eagerly.v1.Sentiment" in [service.name for service in reply.list_services_response.service]


def test_a_draining_endpoint_says_not_serving_and_answers_what_it_has(tmp_path: Path):
    model = endpoints.Gate()
    running = endpoints.Endpoint([endpoints.loaded("sentiment", model)], tmp_path)
    running.run(running.server.start())
    with grpc.insecure_channel(running.address) as channel, concurrent.futures.ThreadPoolExecutor() as pool:
        assert health(channel, "eagerly.v1.Sentiment") == SERVING
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=10)
        assert next(watch).status == SERVING
        model.computing.clear()
        model.open.clear()
        calls = [pool.submit(analyze, channel, [f"call {number}"]) for number in range(4)]
        model.computing.wait(5)
        draining = asyncio.run_coroutine_threadsafe(running.server.drain(), running.loop)
        assert next(watch).status == NOT_SERVING
        model.open.set()
        answers = [call.result(10).results[0].labels[0].label for call in calls]
        assert answers == [f"call {number}" for number in range(4)]
        watch.cancel()
        draining.result(10)
        with pytest.raises(grpc.RpcError) as refused:
            analyze(channel, ["after the end"], timeout=2)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    running.close()


def test_an_endpoint_that_goes_serves_all_who_watch_it_or_come_until_its_notice_is_over(tmp_path: Path):
    running = endpoints.Endpoint([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path, notice_s=1, probe_port=0)
    running.run(running.server.start())
    probe = f"127.0.0.1:{running.server.probe_port}"
    draining = asyncio.run_coroutine_threadsafe(running.server.drain(), running.loop)
    time.sleep(0.5)
    watching = [("grpc.service_config", service_config())]
    with grpc.insecure_channel(running.address, watching) as late, grpc.insecure_channel(probe) as kubelet:
        assert health(kubelet, "") == health(late, "eagerly.v1.Sentiment") == NOT_SERVING
        stub: Any = health_pb2_grpc.HealthStub(late)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watch).status == SERVING
        assert analyze(late, ["late"]).results[0].labels[0].label == "late"
        assert not draining.done()
        assert next(watch).status == NOT_SERVING
    draining.result(10)
    running.close()


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_a_notice_out_of_range_is_refused(seconds: float):
    with pytest.raises(ValueError, match=r"--notice-s is .*; it must be finite, 0 or more"):
        Options(notice_s=seconds)


def test_an_endpoint_that_is_not_warm_yet_does_not_listen(tmp_path: Path):
    model = endpoints.Gate()
    model.open.clear()
    running = endpoints.Endpoint([endpoints.loaded("sentiment", model)], tmp_path)
    starting = asyncio.run_coroutine_threadsafe(running.server.start(), running.loop)
    model.computing.wait(5)
    assert running.server.port == 0
    model.open.set()
    starting.result(10)
    with grpc.insecure_channel(running.address) as channel:
        assert health(channel, "") == SERVING
    running.run(running.server.drain())
    running.close()


def test_a_call_whose_deadline_has_passed_is_not_computed(tmp_path: Path):
    model = endpoints.Gate()
    with (
        endpoints.serving([endpoints.loaded("sentiment", model)], tmp_path) as running,
        grpc.insecure_channel(running.address) as channel,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        model.computing.clear()
        model.open.clear()
        held = pool.submit(analyze, channel, ["held"])
        model.computing.wait(5)
        with pytest.raises(grpc.RpcError) as refused:
            analyze(channel, ["late"], timeout=0.05)
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gone = channel.unary_unary("/eagerly.v1.Sentiment/Analyze").future(
            sentiment_pb2.AnalyzeRequest(texts=["cancelled"]).SerializeToString(), timeout=10
        )
        time.sleep(0.05)
        gone.cancel()
        time.sleep(0.05)
        model.open.set()
        held.result(10)
        analyze(channel, ["next"])
    assert not {"late", "cancelled"} & set(model.computed)
    assert {"held", "next"} <= set(model.computed)


def test_calls_at_the_same_time_share_batches(tmp_path: Path):
    model = endpoints.Gate()
    with (
        endpoints.serving([endpoints.loaded("sentiment", model)], tmp_path) as running,
        grpc.insecure_channel(running.address) as channel,
        concurrent.futures.ThreadPoolExecutor(32) as pool,
    ):
        before = len(model.seen)
        model.open.clear()
        calls = [pool.submit(analyze, channel, [f"text {number}"]) for number in range(32)]
        time.sleep(0.3)
        model.open.set()
        answers = [call.result(10).results[0].labels[0].label for call in calls]
    assert answers == [f"text {number}" for number in range(32)]
    assert len(model.seen) - before <= 4


@contextlib.contextmanager
def held_up(folder: Path, texts: list[str], **options: Any) -> Iterator[tuple[grpc.Channel, endpoints.Gate, Any, Any]]:
    """An endpoint whose model is held up by a call of these texts; gives channel, model, pool and that call."""
    model = endpoints.Gate()
    with (
        endpoints.serving([endpoints.loaded("sentiment", model)], folder, **options) as running,
        grpc.insecure_channel(running.address) as channel,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        model.computing.clear()
        model.open.clear()
        held = pool.submit(analyze, channel, texts)
        model.computing.wait(5)
        yield channel, model, pool, held


def test_a_full_queue_is_resource_exhausted_with_a_time_to_retry(tmp_path: Path):
    with held_up(tmp_path, ["held"], max_waiting=4, max_items=4) as (channel, model, pool, held):
        waiting = pool.submit(analyze, channel, ["a", "b", "c", "d"])
        time.sleep(0.1)
        with pytest.raises(grpc.RpcError) as refused:
            analyze(channel, ["one too many"])
        model.open.set()
        held.result(10)
        waiting.result(10)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = endpoints.trailers(refused.value)["grpc-status-details-bin"]
    retry = error_details_pb2.RetryInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() >= 1


def test_requests_of_more_bytes_than_a_replica_holds_are_refused_for_now(tmp_path: Path):
    room = {"max_message_bytes": 50_000, "max_held_bytes": 50_000}
    with held_up(tmp_path, ["x" * 9_000] * 4, **room) as (channel, model, pool, held):
        with pytest.raises(grpc.RpcError) as refused:
            analyze(channel, ["x" * 9_000] * 2)
        small = pool.submit(analyze, channel, ["x" * 9_000])
        time.sleep(0.1)
        model.open.set()
        assert [len(call.result(10).results) for call in (held, small)] == [4, 1]
        for _ in range(3):
            assert len(analyze(channel, ["x" * 9_000] * 5).results) == 5
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_model_that_raises_is_internal_without_its_text(tmp_path: Path):
    with (
        endpoints.serving([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        with pytest.raises(grpc.RpcError) as refused:
            analyze(channel, ["explode"])
        assert refused.value.code() is grpc.StatusCode.INTERNAL
        told = f"{refused.value.details()} {refused.value.trailing_metadata()}"
        assert "request id" in told
        assert "secret" not in told
        assert analyze(channel, ["goes on"]).results[0].labels[0].label == "goes on"
