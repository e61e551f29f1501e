"""The floor that the endpoint is measured against: bare grpc.aio with the generated servicer and the same batching.

    python -m benchmarks.floor MODEL_FOLDER [PATHS]

Prints its port. The model runs eager, or with PATHS as the endpoint's --paths would have it. It validates nothing,
counts nothing, and says nothing of health or provenance.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grpc import aio

from eagerly.v1 import classifier_pb2, classifier_pb2_grpc
from pipelines.classifier.model import Model
from services import paths
from services.batching import Batcher
from services.classifier import weigh
from services.inline import Inline
from services.options import Options


class Floor(classifier_pb2_grpc.ClassifierServicer):
    """Answers raw images."""

    def __init__(self, batcher: Batcher) -> None:
        """Takes the batcher that owns the model's thread."""
        self._batcher = batcher

    async def Classify(self, request: classifier_pb2.ClassifyRequest, context: Any) -> classifier_pb2.ClassifyResponse:
        """Reads pixels, waits for the batch, and writes the three best labels."""
        inputs = [np.frombuffer(one.raw.data, np.uint8).reshape(tuple(one.raw.shape)) for one in request.images]
        response = classifier_pb2.ClassifyResponse()
        for prediction in await self._batcher.submit(inputs):
            result = response.results.add()
            for label, score in prediction.labels[:3]:
                result.labels.add(label=label, score=score)
        return response


async def serve(folder: Path, ways: str = paths.EAGER) -> None:
    """Serves until the process is killed."""
    torch.set_num_threads(1)
    model = Model.load(folder)
    runner, full = paths.Runner(model), (model.examples() * 64)[:64]
    model.predict(full)
    runner.choice = paths.choose(model, full, paths.ways(ways, Options.tolerance))
    batcher = Batcher(runner, name="floor", inline=Inline(weigh))
    server = aio.server()
    classifier_pb2_grpc.add_ClassifierServicer_to_server(Floor(batcher), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await batcher.submit(full)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), *sys.argv[2:]))
