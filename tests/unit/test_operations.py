"""Callers who give up cost a server nothing for good."""

import ctypes
import gc
import sys
import threading
import time
from pathlib import Path

import endpoints
import grpc
import pytest
from grpc._cython import cygrpc

from eagerly.v1 import sentiment_pb2
from services import operations

CALLS, MOST_BYTES = 600, 200


class Heap(ctypes.Structure):
    """What glibc says of its heaps."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "free", "fast", "maps", "mapped", "most", "fast_free", "used", "unused", "top")
    )


def used_bytes() -> int:
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Heap
    heap = mallinfo()
    return heap.used + heap.mapped


@pytest.mark.skipif(sys.platform != "linux", reason="glibc says what is in use")
def test_replies_to_callers_who_have_just_given_up_are_freed(tmp_path: Path):
    model = endpoints.Gate()
    request = sentiment_pb2.AnalyzeRequest(texts=["text"]).SerializeToString()

    def give_up(count: int) -> None:
        """Gives calls up while the server's loop is busy and the model has an answer."""
        for _ in range(count):
            model.open.clear()
            model.computing.clear()
            call = analyze.future(request, timeout=10)
            assert model.computing.wait(10)
            freed = threading.Event()
            running.loop.call_soon_threadsafe(freed.wait, 10)
            call.cancel()
            model.open.set()
            time.sleep(0.004)
            freed.set()
        model.seen.clear()

    with (
        endpoints.serving([endpoints.loaded("sentiment", model)], tmp_path) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        analyze = channel.unary_unary("/eagerly.v1.Sentiment/Analyze")
        give_up(100)
        before = used_bytes()
        give_up(CALLS)
        assert used_bytes() - before < CALLS * MOST_BYTES


def test_servers_on_loops_of_their_own_in_one_process_answer_each_its_own_calls(tmp_path: Path):
    one, other = endpoints.Gate(), endpoints.Gate()
    with (
        endpoints.serving([endpoints.loaded("sentiment", one)], tmp_path / "one") as first,
        endpoints.serving([endpoints.loaded("sentiment", other)], tmp_path / "other") as second,
        grpc.insecure_channel(first.address) as to_first,
        grpc.insecure_channel(second.address) as to_second,
    ):
        calls = []
        for number in range(200):
            for name, channel in (("one", to_first), ("other", to_second)):
                text = f"{name} {number}"
                request = sentiment_pb2.AnalyzeRequest(texts=[text]).SerializeToString()
                calls.append((text, channel.unary_unary("/eagerly.v1.Sentiment/Analyze").future(request, timeout=10)))
        for text, call in calls:
            reply = sentiment_pb2.AnalyzeResponse.FromString(call.result())
            assert reply.results[0].labels[0].label == text
    assert not any(text.startswith("other") for text in one.computed)
    assert not any(text.startswith("one") for text in other.computed)


@pytest.mark.parametrize(("version", "is_changed"), [("1.85.0", True), ("1.85.3", True), ("1.86.0", False)])
def test_grpc_is_left_alone_in_versions_that_are_not_known_to_leak(
    version: str, is_changed: bool, monkeypatch: pytest.MonkeyPatch
):
    theirs = operations._ORIGINAL
    monkeypatch.setattr(cygrpc, "execute_batch", theirs)
    monkeypatch.setattr(grpc, "__version__", version)
    operations.free_abandoned()
    assert (cygrpc.execute_batch is not theirs) == is_changed  # pyright: ignore[reportAttributeAccessIssue]
