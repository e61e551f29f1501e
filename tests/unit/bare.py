"""A bare gRPC server for tests: it answers Sentiment.Analyze as the test says, and nothing else."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from eagerly.v1 import sentiment_pb2_grpc
from eagerly.v1.sentiment_pb2 import AnalyzeLabel as Label
from eagerly.v1.sentiment_pb2 import AnalyzeRequest as Request
from eagerly.v1.sentiment_pb2 import AnalyzeResponse as Response
from eagerly.v1.sentiment_pb2 import AnalyzeResult as Result

Answer = Callable[[Request, Any], Response]


def labelled(request: Request, context: Any) -> Response:
    """Labels each text with itself."""
    return Response(results=[Result(labels=[Label(label=text, score=1)]) for text in request.texts])


class _Service(sentiment_pb2_grpc.SentimentServicer):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def Analyze(self, request: Request, context: Any) -> Response:
        return self._answer(request, context)


@contextlib.contextmanager
def serving(
    answer: Answer = labelled,
    credentials: grpc.ServerCredentials | None = None,
    health: HealthServicer | None = None,
) -> Iterator[str]:
    """Gives the address of a server, in the clear unless there are credentials."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    sentiment_pb2_grpc.add_SentimentServicer_to_server(_Service(answer), server)
    if health:
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
    name = "localhost:0"
    port = server.add_secure_port(name, credentials) if credentials else server.add_insecure_port(name)
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None).wait(10)
