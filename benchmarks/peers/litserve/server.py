"""LitServe, tuned for throughput.

Followed: its "Batching" (max_batch_size, batch_timeout in seconds) and the reference of LitServer: fast_queue (ZeroMQ
instead of a multiprocessing queue) for high throughput, one worker a device on a CPU, and as many API servers as
workers. Bodies are bytes and the reply is a finished Response, which spares FastAPI's conversion to JSON. With
batch_timeout 0 the worker polls its queue without rest and takes a core for itself.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import json
import os
from typing import Annotated, Any

import litserve
from fastapi import Body, Response

from benchmarks.peers.serving import Served, batch


class Api(litserve.LitAPI):
    """What a worker does with a batch."""

    def setup(self, device: str) -> None:
        """Loads the model."""
        self.served = Served()

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        """Takes the body as it is."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Leaves the items as they are: the model stacks them."""
        return inputs

    def predict(self, x: bytes | list[bytes]) -> list[Any]:
        """Computes a batch, or an item where max_batch_size is 1."""
        return self.served.answer([x])[0] if isinstance(x, bytes) else self.served.answer(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Leaves the answers as they are."""
        return output

    def encode_response(self, output: Any) -> Response:
        """Writes the labels and their scores."""
        return Response(json.dumps(output), media_type="application/json")


def main() -> None:
    """Serves at PEER_PORT."""
    workers = int(os.environ["PEER_WORKERS"])
    most, wait_s = batch()
    api = Api(max_batch_size=most, batch_timeout=wait_s)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        num_api_servers=workers,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
