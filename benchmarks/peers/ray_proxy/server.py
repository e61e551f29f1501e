"""Ray Serve behind a proxy of its own: the default one in Python, or HAProxy; until standard input closes.

Followed: Ray's "Performance Tuning", "Dynamic Request Batching", "Set Up a gRPC Service" and "Enable High Throughput on
Ray Serve with KubeRay". RAY_SERVE_THROUGHPUT_OPTIMIZED is on for both. It also lets replicas be called without any
proxy (direct ingress), which the default proxy's run turns off again, as there would be no proxy left to measure;
HAProxy needs it. Serve's log of every request is off. max_ongoing_requests is 5 unless raised.
"""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve

from benchmarks.peers.serving import Served, batch
from eagerly.v1 import classifier_pb2, sentiment_pb2


class Model:
    """One replica."""

    def __init__(self) -> None:
        """Loads the model; it computes on a thread of its own, so that the loop stays free."""
        self._served = Served()
        self._thread = ThreadPoolExecutor(1)

    @serve.batch(max_batch_size=batch()[0], batch_wait_timeout_s=batch()[1])
    async def answer(self, items: list[bytes]) -> list[Any]:
        """Computes a batch."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._served.answer, items)

    async def Classify(self, request: classifier_pb2.ClassifyRequest) -> classifier_pb2.ClassifyResponse:
        """Answers one image."""
        response = classifier_pb2.ClassifyResponse()
        result = response.results.add()
        for label, score in await self.answer(request.images[0].raw.data):
            result.labels.add(label=label, score=score)
        return response

    async def Analyze(self, request: sentiment_pb2.AnalyzeRequest) -> sentiment_pb2.AnalyzeResponse:
        """Answers one text."""
        response = sentiment_pb2.AnalyzeResponse()
        result = response.results.add()
        for label, score in await self.answer(request.texts[0].encode()):
            result.labels.add(label=label, score=score)
        return response


SERVICERS = [
    "eagerly.v1.classifier_pb2_grpc.add_ClassifierServicer_to_server",
    "eagerly.v1.sentiment_pb2_grpc.add_SentimentServicer_to_server",
]


def main() -> None:
    """Serves at PEER_PORT."""
    import ray
    from ray.serve.config import gRPCOptions

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT_2"])},
        grpc_options=gRPCOptions(port=int(os.environ["PEER_PORT"]), grpc_servicer_functions=SERVICERS),
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )
    deployment = serve.deployment(
        num_replicas=int(os.environ["PEER_WORKERS"]), max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0}
    )
    serve.run(deployment(Model).bind(), name="peer")
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
