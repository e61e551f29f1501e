"""MLServer, tuned for throughput.

Followed: its "Adaptive Batching" (max_batch_size, max_batch_time in seconds, set for each load by servers.py),
"Parallel Inference" (parallel_workers; 0, no process apart, was faster where one is allowed) and "Custom Inference
Runtimes". An item is one element of type BYTES: a tensor of UINT8 would become a Python list of numbers. The model
computes on a thread of its own, so that the loop goes on batching.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlserver
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.peers.serving import Served


class Runtime(mlserver.MLModel):
    """One model in one worker."""

    async def load(self) -> bool:
        """Loads the model."""
        self._served = Served()
        self._thread = ThreadPoolExecutor(1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Computes a batch."""
        items = list(payload.inputs[0].data)
        answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._served.answer, items)
        shape = [len(answers), len(answers[0])]
        labels: list[Any] = [label.encode() for answer in answers for label, _ in answer]
        scores: list[Any] = [score for answer in answers for _, score in answer]
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(name="label", shape=shape, datatype="BYTES", data=labels),
                ResponseOutput(name="score", shape=shape, datatype="FP32", data=scores),
            ],
        )
