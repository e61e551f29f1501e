"""A typed client of the services, with a deadline and retries on every call; needs grpcio and protobuf alone.

with Client("127.0.0.1:9000") as client:
    for result in client.analyze(["What a film!"]):
        print(result.error or result.labels[0])

`eagerly.aio` has its twin for asyncio.
"""

import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from eagerly import contract, spans
from eagerly.connection import DEADLINE_S, Connection, Tls
from eagerly.contract import CallError, Item, Items, Label, Labels, Provenance, Query, Raw, Violation
from eagerly.v1 import sentiment_pb2
from eagerly.v1.classifier_pb2_grpc import ClassifierStub
from eagerly.v1.recommender_pb2_grpc import RecommenderStub
from eagerly.v1.sentiment_pb2_grpc import SentimentStub

__all__ = [
    "CallError",
    "Client",
    "Item",
    "Items",
    "Label",
    "Labels",
    "Provenance",
    "Query",
    "Raw",
    "Tls",
    "Violation",
]


class Client:
    """Calls the services at one address; safe to share among threads."""

    def __init__(
        self,
        address: str,
        timeout_s: float = DEADLINE_S,
        wait_for_ready: bool = True,
        *,
        tls: Tls | None = None,
        token: str = "",
        connections: int = 1,
    ) -> None:
        """Prepares connections to host:port, which are made by the first calls.

        timeout_s: deadline of each call, retries included. wait_for_ready: whether a call waits until its deadline
        for a server that does not answer, rather than giving up after a few attempts. tls: None calls in the clear.
        token: who calls, for endpoints that ask; needs TLS unless the address is this machine's own. connections:
        calls take turns on so many, so that several replicas share the work.
        """
        self.address = address
        self._timeout_s, self._wait = timeout_s, wait_for_ready
        self._connection = Connection(address, tls, token, connections, timeout_s)
        self._channels: list[grpc.Channel] = self._connection.channels(grpc)
        self._classify = itertools.cycle([ClassifierStub(channel).Classify for channel in self._channels])
        self._analyze = itertools.cycle([SentimentStub(channel).Analyze for channel in self._channels])
        self._recommend = itertools.cycle([RecommenderStub(channel).Recommend for channel in self._channels])

    def classify(
        self, images: Sequence[bytes | Raw], top_k: int = 3, min_confidence: float | None = None
    ) -> list[Labels]:
        """Labels images, given as the bytes of PNG or JPEG files or as pixels; raises CallError.

        min_confidence: least score of the best label, 0 to 1, or the model abstains; None leaves it to the server.
        """
        request = contract.classify_request(images, top_k, min_confidence)
        return contract.labels(*self._call(contract.CLASSIFY, next(self._classify), request))

    def analyze(self, texts: Sequence[str], min_confidence: float | None = None) -> list[Labels]:
        """Labels texts by how they feel, and abstains as `classify` does; raises CallError."""
        request = sentiment_pb2.AnalyzeRequest(texts=texts, min_confidence=min_confidence)
        return contract.labels(*self._call(contract.ANALYZE, next(self._analyze), request))

    def recommend(self, queries: Sequence[Query]) -> list[Items]:
        """Recommends items for each query; raises CallError."""
        return contract.items(
            *self._call(contract.RECOMMEND, next(self._recommend), contract.recommend_request(queries))
        )

    def healthy(self, service: str = "") -> bool:
        """Asks grpc.health.v1 whether a service such as `eagerly.v1.Classifier` serves; empty asks for all.

        Raises CallError when there is no such service or no answer.
        """
        check = self._channels[0].unary_unary(contract.HEALTH)
        try:
            return check(contract.health_request(service), timeout=self._timeout_s) == contract.SERVING
        except grpc.RpcError as error:
            raise contract.call_error(error) from None

    def close(self) -> None:
        """Ends the connections."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        """Returns the client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the connections."""
        self.close()

    def _call(self, name: str, method: Any, request: Message) -> tuple[Any, Provenance]:
        """Makes a call within the deadline; returns the response and who answered."""
        with spans.calling(name, self._connection.metadata) as metadata:
            try:
                response, call = method.with_call(
                    request, timeout=self._timeout_s, wait_for_ready=self._wait, metadata=metadata
                )
            except grpc.RpcError as error:
                raise contract.call_error(error) from None
        return response, contract.provenance(call.trailing_metadata())
