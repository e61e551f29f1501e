"""A well-behaved caller, in a process of its own: calls Classify at a steady pace and notes how long each call takes.

    python -m benchmarks.bystander ADDRESS SECONDS

Prints the milliseconds of every call as JSON. A call is made when its time has come, also while others wait: a
server that stands still is seen by all calls of that time.
"""

import asyncio
import json
import subprocess
import sys
import time

import grpc
from grpc import aio

from benchmarks.load import image_request

PER_S = 100
CLASSIFY = "/eagerly.v1.Classifier/Classify"


class Bystander:
    """A bystander that runs."""

    def __init__(self, address: str, seconds: float) -> None:
        """Starts it; it calls for so many seconds."""
        command = [sys.executable, "-m", "benchmarks.bystander", address, str(seconds)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def latencies_ms(self) -> list[float]:
        """Waits for its end; infinite for a call that failed."""
        with self._process:
            assert self._process.stdout is not None
            return json.loads(self._process.stdout.readline())


async def call(address: str, seconds: float) -> list[float]:
    """Makes the calls."""
    body, taken_ms = image_request(28), []
    async with aio.insecure_channel(address) as channel:
        method = channel.unary_unary(CLASSIFY)

        async def once() -> None:
            began = time.perf_counter()
            try:
                await method(body, timeout=10)
                taken_ms.append((time.perf_counter() - began) * 1e3)
            except grpc.RpcError as error:
                print(error.code().name, error.details(), file=sys.stderr)
                taken_ms.append(float("inf"))

        await once()
        taken_ms.clear()
        print("ready", flush=True)
        began, calls = time.perf_counter(), []
        for number in range(round(seconds * PER_S)):
            await asyncio.sleep(began + number / PER_S - time.perf_counter())
            calls.append(asyncio.create_task(once()))
        await asyncio.gather(*calls)
    return taken_ms


if __name__ == "__main__":
    print(json.dumps(asyncio.run(call(sys.argv[1], float(sys.argv[2])))))
