"""Calls an endpoint with KServe's own client, unmodified, in the client's own environment.

Calls once with everything that the client can do, then again and again until standard input ends. Prints what it saw
as lines of JSON. Usage: kserve_calls.py ADDRESS SERVICE_CONFIG
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest  # pyright: ignore[reportMissingImports]

TEXTS = ["A warm film.", "味道一般"]


def request(name: str, given: str, array: Any, datatype: str, raw: bool = True) -> Any:
    tensor = InferInput(given, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=raw)
    return InferRequest(name, [tensor], request_id="call-1")


def texts(raw: bool = True) -> Any:
    return request("sentiment", "text", np.array([one.encode() for one in TEXTS], dtype=object), "BYTES", raw)


async def seen(client: Any) -> dict[str, Any]:
    answer, typed = await client.infer(texts()), await client.infer(texts(raw=False))
    images = await client.infer(request("classifier", "image", np.zeros((2, 28, 28), np.uint8), "UINT8"))
    return {
        "live": await client.is_server_live(),
        "ready": [await client.is_server_ready(), await client.is_model_ready("sentiment")],
        "names": [one.name for one in answer.outputs],
        "scores": scores(answer),
        "typed": scores(typed),
        "id": answer.id,
        "images": [list(one.shape) for one in images.outputs],
        "refusal": await refusal(client),
    }


def scores(answer: Any) -> list[list[float]]:
    return next(one.as_numpy().tolist() for one in answer.outputs if one.name == "scores")


async def refusal(client: Any) -> list[str]:
    try:
        await client.infer(request("classifier", "image", np.zeros((1, 9, 9), np.uint8), "UINT8"))
    except grpc.RpcError as error:
        return [str(error.code()), str(error.details())]  # type: ignore[attr-defined]
    return []


async def calls(client: Any) -> dict[str, Any]:
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    count, failed = 0, []
    while not ended.done():
        try:
            await client.infer(texts())
        except grpc.RpcError as error:
            failed.append(str(error.code()))  # type: ignore[attr-defined]
        count += 1
    return {"count": count, "failed": failed}


async def main() -> None:
    options = [("grpc.service_config", Path(sys.argv[2]).read_text())]
    async with InferenceGRPCClient(sys.argv[1], channel_args=options) as client:
        print(json.dumps(await seen(client)), flush=True)
        print(json.dumps(await calls(client)), flush=True)


asyncio.run(main())
