"""The client's twin for asyncio, with the same calls, errors and settings.

async with AsyncClient("127.0.0.1:9000") as client:
    for result in await client.analyze(["What a film!"]):
        print(result.error or result.labels[0])
"""

import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from grpc import aio

from eagerly import contract, spans
from eagerly.connection import DEADLINE_S, Connection, Tls
from eagerly.contract import Items, Labels, Provenance, Query, Raw
from eagerly.v1 import sentiment_pb2
from eagerly.v1.classifier_pb2_grpc import ClassifierStub
from eagerly.v1.recommender_pb2_grpc import RecommenderStub
from eagerly.v1.sentiment_pb2_grpc import SentimentStub


class AsyncClient:
    """Calls the services at one address; belongs to the event loop that it is made on."""

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
        """Prepares connections as `eagerly.client.Client` does."""
        self.address = address
        self._timeout_s, self._wait = timeout_s, wait_for_ready
        self._connection = Connection(address, tls, token, connections, timeout_s)
        self._channels: list[aio.Channel] = self._connection.channels(aio)
        stubs: list[Any] = [*self._channels]
        self._classify = itertools.cycle([ClassifierStub(channel).Classify for channel in stubs])
        self._analyze = itertools.cycle([SentimentStub(channel).Analyze for channel in stubs])
        self._recommend = itertools.cycle([RecommenderStub(channel).Recommend for channel in stubs])

    async def classify(
        self, images: Sequence[bytes | Raw], top_k: int = 3, min_confidence: float | None = None
    ) -> list[Labels]:
        """Labels images; as Client.classify."""
        request = contract.classify_request(images, top_k, min_confidence)
        return contract.labels(*await self._call(contract.CLASSIFY, next(self._classify), request))

    async def analyze(self, texts: Sequence[str], min_confidence: float | None = None) -> list[Labels]:
        """Labels texts; as Client.analyze."""
        request = sentiment_pb2.AnalyzeRequest(texts=texts, min_confidence=min_confidence)
        return contract.labels(*await self._call(contract.ANALYZE, next(self._analyze), request))

    async def recommend(self, queries: Sequence[Query]) -> list[Items]:
        """Recommends items; as Client.recommend."""
        return contract.items(
            *await self._call(contract.RECOMMEND, next(self._recommend), contract.recommend_request(queries))
        )

    async def healthy(self, service: str = "") -> bool:
        """Asks grpc.health.v1 whether a service serves; as Client.healthy."""
        check: Any = self._channels[0].unary_unary(contract.HEALTH)
        try:
            return await check(contract.health_request(service), timeout=self._timeout_s) == contract.SERVING
        except grpc.RpcError as error:
            raise contract.call_error(error) from None

    async def close(self) -> None:
        """Ends the connections; calls that are still waiting are cancelled."""
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> Self:
        """Returns the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Ends the connections."""
        await self.close()

    async def _call(self, name: str, method: Any, request: Message) -> tuple[Any, Provenance]:
        """Makes a call within the deadline; returns the response and who answered."""
        with spans.calling(name, self._connection.metadata) as metadata:
            call = method(request, timeout=self._timeout_s, wait_for_ready=self._wait, metadata=metadata)
            try:
                return await call, contract.provenance(await call.trailing_metadata())
            except grpc.RpcError as error:
                raise contract.call_error(error) from None
