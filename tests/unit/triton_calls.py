"""Calls an endpoint with Triton's own client, unmodified; a program of its own, as the client defines `inference` too.

Prints what it saw as JSON. Usage: triton_calls.py ADDRESS
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException


def tensor(name: str, array: Any, datatype: str) -> triton.InferInput:
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def seen(client: triton.InferenceServerClient) -> dict[str, Any]:
    texts = tensor("text", np.array([b"A warm film.", "味道一般".encode()], dtype=object), "BYTES")
    everything: Any = client.infer("sentiment", [texts], request_id="call-1")
    scores: Any = client.infer("sentiment", [texts], outputs=[triton.InferRequestedOutput("scores", class_count=1)])
    pixels = tensor("image", np.zeros((2, 28, 28), np.uint8), "UINT8")
    images: Any = client.infer("classifier", [pixels], model_version="7", compression_algorithm="gzip")
    own: Any = client.infer("parity", [tensor("input", np.array([b"1", b"0110"], dtype=object), "BYTES")])
    return {
        "live": client.is_server_live(),
        "ready": [client.is_server_ready(), client.is_model_ready("sentiment"), client.is_model_ready("weather")],
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata("classifier", as_json=True),
        "labels": [label.decode() for label in everything.as_numpy("label").tolist()],
        "scores": everything.as_numpy("scores").tolist(),
        "id": everything.get_response().id,
        "best": [row[0].decode() for row in scores.as_numpy("scores").tolist()],
        "images": list(images.as_numpy("scores").shape),
        "own": [word.decode() for word in own.as_numpy("output").tolist()],
        "own_async": asyncio.run(own_async(sys.argv[1])),
        "refusal": refusal(client),
    }


async def own_async(address: str) -> list[float]:
    async with aio.InferenceServerClient(address) as client:
        numbers = tensor("input", np.array([0.5, 2.0]), "FP64")
        answer: Any = await client.infer("linear_regression", [numbers])
        return answer.as_numpy("output").tolist()


def refusal(client: triton.InferenceServerClient) -> list[str]:
    try:
        client.infer("classifier", [tensor("image", np.zeros((1, 9, 9), np.uint8), "UINT8")])
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return []


if __name__ == "__main__":
    with triton.InferenceServerClient(sys.argv[1]) as opened:
        print(json.dumps(seen(opened)))
