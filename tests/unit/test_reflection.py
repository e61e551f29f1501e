"""Reflection streams that callers keep open, as grpcui does, and a server that is to stop."""

import queue
import time
from pathlib import Path
from typing import Any

import endpoints
import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2 as pb


def ask(channel: grpc.Channel, name: str, questions: "queue.Queue[Any]") -> Any:
    """Opens a stream that asks whatever comes, until that is None."""
    method = channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        pb.ServerReflectionRequest.SerializeToString,
        pb.ServerReflectionResponse.FromString,
    )
    return method(iter(questions.get, None))


@pytest.mark.parametrize("name", ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"])
def test_a_stream_that_is_kept_open_ends_when_the_server_drains(tmp_path: Path, name: str):
    running = endpoints.Endpoint([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path, drain_s=15.0)
    running.run(running.server.start())
    questions: queue.Queue[Any] = queue.Queue()
    with grpc.insecure_channel(running.address) as channel:
        replies = ask(channel, name, questions)
        for _ in range(2):
            questions.put(pb.ServerReflectionRequest(list_services=""))
            listed = next(replies).list_services_response.service
            assert "eagerly.v1.Sentiment" in [service.name for service in listed]
        began = time.monotonic()
        running.run(running.server.drain())
        assert time.monotonic() - began < 10
        assert list(replies) == []
        assert replies.code() is grpc.StatusCode.OK
        questions.put(None)
    running.close()


def test_a_stream_ends_when_its_caller_has_no_more_questions(tmp_path: Path):
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    questions: queue.Queue[Any] = queue.Queue()
    with endpoints.serving(models, tmp_path) as running, grpc.insecure_channel(running.address) as channel:
        for question in (pb.ServerReflectionRequest(list_services=""), None):
            questions.put(question)
        replies = ask(channel, "grpc.reflection.v1.ServerReflection", questions)
        assert len(list(replies)) == 1
        assert replies.code() is grpc.StatusCode.OK
