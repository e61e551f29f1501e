"""Mixed traffic from a process of its own: good and bad calls of every service, some given up, over new connections.

    python -m benchmarks.traffic PER_S SECONDS SEED < TARGET

TARGET is what benchmarks.target prints. The calls are the fuzzer's. At PER_S 0 a call follows as soon as another has
ended, which measures the capacity; else calls come at that rate whatever becomes of them. Prints a Summary as JSON.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
from grpc import aio

from benchmarks.fuzz import drawn, methods
from benchmarks.target import Target

CONNECTIONS, CALLS_A_CONNECTION = 8, 200
POOL_COUNT, LARGEST_BYTES = 1000, 64 * 1024
"""Calls that are made ready and then sent in turn, and the largest of them, so that no moment is unlike another."""
IN_FLIGHT = 32
"""Calls at once when capacity is measured."""
MOST_IN_FLIGHT = 1000
"""Calls at once when they come at a rate; more are left out, and counted."""
DEADLINE_S = 60.0
HURRIED_SHARE, CANCELLED_SHARE, LONGEST_HURRY_S = 0.08, 0.08, 0.01
"""Calls with a deadline that is hardly to be kept, and calls that are cancelled in that time."""
FAULTS = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "DEADLINE_EXCEEDED")
"""What no call may end with that has time."""


@dataclass
class Summary:
    """What came of the calls."""

    seconds: float = 0.0
    count: int = 0
    """Calls that ended."""
    left_out: int = 0
    """Calls that were due when too many were in flight."""
    connections: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    """How many calls ended how; those in a hurry and those cancelled by a name in front."""
    latency_ms: dict[str, float] = field(default_factory=dict)
    """Of calls that have time."""

    @property
    def faults(self) -> dict[str, int]:
        """What must not have happened."""
        return {code: count for code, count in self.codes.items() if code in FAULTS}


class Traffic:
    """Makes calls on one event loop."""

    def __init__(self, target: Target, seed: int) -> None:
        """Makes calls ready."""
        self._address, self._draw = target.address, random.Random(seed)
        choices, numbers = methods(target), iter(range(10 * POOL_COUNT))
        made = (drawn(seed, number, choices, target) for number in numbers)
        small = ((method.path, body) for method, body in made if len(body) <= LARGEST_BYTES)
        self._pool = [call for call, _ in zip(small, range(POOL_COUNT), strict=False)]
        self._channels: list[tuple[aio.Channel, int]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._taken_s: list[float] = []
        self.summary = Summary()

    async def as_fast_as_answered(self, seconds: float) -> None:
        """Makes the next call when one has ended."""
        ends = time.monotonic() + seconds

        async def one_after_the_other() -> None:
            while time.monotonic() < ends:
                await self._call()

        await asyncio.gather(*(one_after_the_other() for _ in range(IN_FLIGHT)))
        await self._end(seconds)

    async def at(self, per_s: float, seconds: float) -> None:
        """Makes a call when its time has come, whether others have ended or not."""
        began, due_count, calls = time.monotonic(), 0, set[asyncio.Task[None]]()
        while (passed_s := time.monotonic() - began) < seconds:
            for _ in range(due_count, due := int(passed_s * per_s)):
                if len(calls) >= MOST_IN_FLIGHT:
                    self.summary.left_out += 1
                    continue
                calls.add(task := asyncio.create_task(self._call()))
                task.add_done_callback(calls.discard)
            due_count = due
            await asyncio.sleep(0.005)
        await asyncio.gather(*calls)
        await self._end(seconds)

    async def _call(self) -> None:
        """Makes a call, with or without time to end."""
        path, body = self._pool[self.summary.count % len(self._pool)]
        chance, hurry_s = self._draw.random(), self._draw.uniform(0.0005, LONGEST_HURRY_S)
        hurried = chance < HURRIED_SHARE
        cancelled = not hurried and chance < HURRIED_SHARE + CANCELLED_SHARE
        began = time.monotonic()
        call: Any = self._channel().unary_unary(path)(body, timeout=hurry_s if hurried else DEADLINE_S)
        if cancelled:
            await asyncio.sleep(hurry_s)
            call.cancel()
        code: grpc.StatusCode = await call.code()
        self.summary.count += 1
        kind = "hurried " if hurried else "cancelled " if cancelled else ""
        name = f"{kind}{code.name}"
        self.summary.codes[name] = self.summary.codes.get(name, 0) + 1
        if not kind:
            self._taken_s.append(time.monotonic() - began)

    def _channel(self) -> aio.Channel:
        """Takes a connection; one that has had its calls is closed, half of them with calls in flight."""
        at = self._draw.randrange(CONNECTIONS)
        if at >= len(self._channels):
            at = len(self._channels)
            self._channels.append((self._open(), 0))
        channel, count = self._channels[at]
        if count == CALLS_A_CONNECTION:
            self._closing.add(task := asyncio.create_task(_close(channel, self._draw.choice((None, DEADLINE_S)))))
            task.add_done_callback(self._closing.discard)
            channel, count = self._open(), 0
        self._channels[at] = channel, count + 1
        return channel

    def _open(self) -> aio.Channel:
        self.summary.connections += 1
        return aio.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)])

    async def _end(self, seconds: float) -> None:
        for channel, _ in self._channels:
            await channel.close(None)
        if self._closing:
            await asyncio.wait(self._closing)
        self.summary.seconds = seconds
        ordered_s = sorted(self._taken_s)
        at = {"p50": 0.5, "p99": 0.99}
        self.summary.latency_ms = {name: 1e3 * ordered_s[int(share * len(ordered_s))] for name, share in at.items()}


async def _close(channel: aio.Channel, grace_s: float | None) -> None:
    await channel.close(grace_s)


class Sender:
    """Traffic that flows from a process of its own."""

    def __init__(self, target: Target, per_s: float, seconds: float, seed: int) -> None:
        """Starts it; returns when its calls are made ready and about to be sent."""
        command = [sys.executable, "-m", "benchmarks.traffic", str(per_s), str(seconds), str(seed)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(target)))
        self._process.stdin.close()
        self._process.stdout.readline()

    def summary(self) -> Summary:
        """Waits for the end."""
        assert self._process.stdout is not None
        with self._process.stdout as told:
            summary = Summary(**json.loads(told.readline()))
        self._process.wait()
        return summary


def main(words: list[str]) -> int:
    """Sends traffic and prints what came of it."""
    per_s, seconds, seed = float(words[0]), float(words[1]), int(words[2])
    traffic = Traffic(Target(**json.load(sys.stdin)), seed)
    print("ready", flush=True)
    asyncio.run(traffic.at(per_s, seconds) if per_s else traffic.as_fast_as_answered(seconds))
    print(json.dumps(asdict(traffic.summary)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
