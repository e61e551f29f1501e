"""Callers of the ledger, a process of them: every call is in the book before it is sent, and again when it has ended.

    python -m benchmarks.callers KIND NAME ADDRESS BOOK

KIND is `shipped`, which is eagerly.client with its service config, or `bare`, which neither retries nor waits for a
server. The callers go on until standard input ends; each then ends the call it is in.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from eagerly.client import CallError, Client, Raw
from eagerly.v1 import classifier_pb2, classifier_pb2_grpc

SIDE = 28
ITEMS_A_CALL = 3
THREADS = 4
CONNECTIONS = 3
"""That the calls of one shipped client take turns on."""
CALLS_A_CLIENT = 200
DEADLINE_S = 90.0
"""Deadline of a call, above the longest time in which no replica serves."""
PAUSE_S = 0.02
"""Between a caller's calls, so that a replica that starts beside them finds a core."""


def main(words: list[str]) -> int:
    """Calls from several threads until standard input ends."""
    kind, name, address, book = words
    halted = threading.Event()
    make = {"shipped": shipped, "bare": bare}[kind]
    descriptor = os.open(book, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    threads = [
        threading.Thread(target=_call_on, args=(halted, make, address, descriptor, f"{kind}-{name}-{number}"))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    sys.stdin.buffer.read()
    halted.set()
    for thread in threads:
        thread.join()
    return 0


def _call_on(halted: threading.Event, make: Any, address: str, book: int, name: str) -> None:
    numbers = itertools.count()
    while not halted.is_set():
        with make(address) as call:
            for number in itertools.islice(numbers, CALLS_A_CLIENT):
                if halted.wait(PAUSE_S):
                    break
                _note(book, {"id": f"{name}-{number}", "start": time.monotonic()})
                outcome = call()
                _note(book, {"id": f"{name}-{number}", "end": time.monotonic(), **outcome})


def _note(book: int, entry: dict[str, Any]) -> None:
    """Adds a line in one write, which no other can come between."""
    os.write(book, json.dumps(entry).encode() + b"\n")


@contextlib.contextmanager
def shipped(address: str) -> Iterator[Any]:
    """Makes a call of eagerly.client; it returns the outcome for the book."""
    image = Raw(bytes(SIDE * SIDE), (SIDE, SIDE))
    with Client(address, timeout_s=DEADLINE_S, connections=CONNECTIONS) as client:

        def call() -> dict[str, Any]:
            try:
                answers = client.classify([image] * ITEMS_A_CALL, top_k=1)
            except CallError as error:
                return {"code": error.code, "message": error.message}
            refused = [answer.error.code for answer in answers if answer.error]
            if refused or len(answers) != ITEMS_A_CALL:
                return {"code": "ITEMS", "message": f"{len(answers)} items, refused {refused}"}
            labels, by = [answer.labels[0].label for answer in answers], answers[0].provenance
            return {"code": "OK", "version": by.version, "digest": by.digest, "labels": labels}

        yield call


@contextlib.contextmanager
def bare(address: str) -> Iterator[Any]:
    """Makes a call without retries; it returns the outcome for the book."""
    image = classifier_pb2.Image(raw=classifier_pb2.RawImage(data=bytes(SIDE * SIDE), shape=(SIDE, SIDE)))
    request = classifier_pb2.ClassifyRequest(images=[image] * ITEMS_A_CALL, top_k=1)
    own = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, own) as channel:
        stub: Any = classifier_pb2_grpc.ClassifierStub(channel)

        def call() -> dict[str, Any]:
            try:
                reply, ended = stub.Classify.with_call(request, timeout=DEADLINE_S)
            except grpc.RpcError as error:
                return {"code": error.code().name, "message": error.details()}
            by = dict(ended.trailing_metadata())
            labels = [result.labels[0].label for result in reply.results]
            told = {"version": by["eagerly-model-version"], "digest": by["eagerly-model-digest"]}
            return {"code": "OK", "labels": labels, **told}

        yield call


@contextlib.contextmanager
def calling(address: str, folder: Path, processes: dict[str, int]) -> Iterator[list[Path]]:
    """Calls while the block runs, from so many processes of each kind; yields their books, complete when it ends.

    A process that does not end when every deadline has passed is killed, and leaves calls without an outcome.
    """
    books, running = [], []
    with contextlib.ExitStack() as stack:
        for kind, count in processes.items():
            for number in range(count):
                books.append(folder / f"{kind}-{number}.jsonl")
                words = [kind, str(number), address, str(books[-1])]
                command = [sys.executable, "-m", "benchmarks.callers", *words]
                running.append(stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE)))
        try:
            yield books
        finally:
            for process in running:
                process.stdin.close()
            ends = time.monotonic() + DEADLINE_S + 10
            for process in running:
                try:
                    process.wait(max(0.1, ends - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
