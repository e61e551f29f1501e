"""A candidate on trial: a canary answers its share and mixes nothing, a shadow is nobody's delay, and both stop."""

import contextlib
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import endpoints
import grpc
import pytest
import torch
from registries import eventually

from eagerly.v1 import sentiment_pb2
from pipelines.policy import Limits, Rollout
from pipelines.sentiment.model import Prediction
from services import trial as trials
from services import visits
from services.models import Loaded
from services.oip import open_inference_pb2 as pb
from services.seats import Count
from services.slots import Slot
from services.trial import MOST_WAITING_ITEMS, Trial

METHOD = "/eagerly.v1.Sentiment/Analyze"
LIMITS = Limits(max_errors=0.01, max_slower=1000.0, max_disagreement=0.05, least_calls=40)


class Candidate:
    """A model that says its version, or what it is told to, when it is let."""

    def __init__(self, version: int, says: str = "", delay_s: float = 0.0) -> None:
        self.version, self.says, self.delay_s = version, says, delay_s
        self.open = threading.Event()
        self.open.set()
        self.failing = False
        self.seen: list[str] = []

    def examples(self) -> list[str]:
        return ["first", "second"]

    def predict(self, texts: list[str]) -> list[Any]:
        self.open.wait(20)
        time.sleep(self.delay_s)
        self.seen += texts
        if "die" in texts and self.version == 7:
            raise SystemExit
        if self.failing and "first" not in texts:
            raise RuntimeError("secret of the candidate")
        return [Prediction([(self.says or str(self.version), 1.0)]) for _ in texts]


def version(number: int, says: str = "", delay_s: float = 0.0) -> Loaded:
    return replace(endpoints.loaded("sentiment", Candidate(number, says, delay_s)), version=number)


async def begin(slot: Slot, candidate: Loaded, mode: Any, share: float, limits: Limits = LIMITS) -> Trial:
    """Puts a candidate on trial beside version 6, while the task at hand belongs to some call."""
    visits.current.set(visits.Visit("of-another-call", False, "", 0, None))
    generation = await slot.prepare(candidate, served=False)
    plan = Rollout("id", candidate.version, 6, mode, share, limits, began=0.0)
    slot.trial = Trial(plan, slot.current, generation, Count("id"), slot.counters)
    return slot.trial


@contextlib.contextmanager
def trying(
    folder: Path, candidate: Loaded, mode: Any, share: float, limits: Limits = LIMITS, **options: Any
) -> Iterator[tuple[endpoints.Endpoint, grpc.Channel, Trial]]:
    """An endpoint of version 6, with a candidate on trial as candidates.py begins it."""
    with endpoints.serving([version(6)], folder, **options) as endpoint:
        slot = endpoint.server.slots["sentiment"]

        trial = endpoint.run(begin(slot, candidate, mode, share, limits))
        candidate.model.seen.clear()
        with grpc.insecure_channel(endpoint.address) as channel:
            yield endpoint, channel, trial


def call(channel: grpc.Channel, text: str = "text", items: int = 1, timeout: float = 10) -> tuple[str, set[str]]:
    """Calls once; returns the version that the trailers name, and the labels."""
    method = channel.unary_unary(
        METHOD, sentiment_pb2.AnalyzeRequest.SerializeToString, sentiment_pb2.AnalyzeResponse.FromString
    )
    reply, ended = method.with_call(sentiment_pb2.AnalyzeRequest(texts=[text] * items), timeout=timeout)
    return endpoints.trailers(ended)["eagerly-model-version"], {result.labels[0].label for result in reply.results}


def figures(endpoint: endpoints.Endpoint) -> dict[str, float]:
    text = urllib.request.urlopen(endpoint.metrics).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("eagerly_rollout")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


class Quick(Candidate):
    """A candidate that notes which threads compute it, with a network that is here."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.network = torch.nn.Linear(1, 1)
        self.threads: list[str] = []

    def predict(self, texts: list[str]) -> list[Any]:
        self.threads.append(threading.current_thread().name)
        return super().predict(texts)


def quick(number: int) -> Loaded:
    return replace(endpoints.loaded("sentiment", Quick(number)), version=number)


def test_while_a_candidate_is_on_trial_its_work_and_the_champions_are_left_to_threads(tmp_path: Path):
    champion, candidate = quick(6), quick(7)
    with endpoints.serving([champion], tmp_path, paths="eager") as endpoint:
        slot = endpoint.server.slots["sentiment"]

        def threads_of(model: Any, count: int) -> set[str]:
            model.threads.clear()
            for _ in range(count):
                call(channel)
            return set(model.threads)

        with grpc.insecure_channel(endpoint.address) as channel:
            assert "model-sentiment" not in threads_of(champion.model, 20)
            endpoint.run(begin(slot, candidate, "canary", 0.5))
            candidate.model.threads.clear()
            assert threads_of(champion.model, 40) == set(candidate.model.threads) == {"model-sentiment"}
            endpoint.run(slot.adopt())
            assert "model-sentiment" not in threads_of(candidate.model, 20)


def test_a_canary_answers_about_its_share_and_no_reply_mixes_versions(tmp_path: Path):
    with trying(tmp_path, version(7), "canary", 0.3) as (endpoint, channel, trial):
        seen: Counter[str] = Counter()
        for _ in range(400):
            named, labels = call(channel, items=3)
            assert labels == {named}
            seen[named] += 1
        assert 70 <= seen["7"] <= 170, "120 is expected, and 50 is more than five standard errors"
        assert (trial.count.tally.candidate.calls, trial.count.tally.champion.calls) == (seen["7"], seen["6"])
        told = figures(endpoint)
        assert told['eagerly_rollout_calls_total{outcome="ok",role="candidate",service="sentiment"}'] == seen["7"]
        assert told['eagerly_rollout_share{mode="canary",service="sentiment"}'] == 0.3


def test_a_canary_that_fails_is_stopped_at_once_and_the_champion_answers_all(tmp_path: Path):
    candidate = version(7)
    with trying(tmp_path, candidate, "canary", 0.5) as (_, channel, trial):
        candidate.model.failing = True
        codes: list[grpc.StatusCode] = []
        for _ in range(200):
            try:
                call(channel)
            except grpc.RpcError as error:
                codes.append(error.code())  # type: ignore[attr-defined]
        assert set(codes) == {grpc.StatusCode.INTERNAL}
        assert trial.count.stopped.startswith("errors: ")
        assert 4 <= len(codes) <= 25
        assert {call(channel)[0] for _ in range(50)} == {"6"}


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_a_candidate_that_is_far_slower_is_stopped(tmp_path: Path, mode: str):
    limits = replace(LIMITS, max_slower=3.0, least_calls=20)
    with trying(tmp_path, version(7, "6", delay_s=0.1), mode, 0.8, limits) as (_, channel, trial):
        for _ in range(1000):
            call(channel)
            if trial.count.stopped:
                break
        assert eventually(lambda: trial.count.stopped)
        assert trial.count.stopped.startswith("latency: ")


def test_callers_of_a_canary_that_hangs_are_told_so_and_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.trial.PATIENCE_S", 0.2)
    candidate = version(7)
    with trying(tmp_path, candidate, "canary", 0.9, replace(LIMITS, least_calls=20)) as (_, channel, trial):
        candidate.model.open.clear()
        for number in range(100):
            with contextlib.suppress(grpc.RpcError):
                call(channel, timeout=0.1 if number % 2 else 10)  # half of them give up by themselves
            if trial.count.stopped:
                break
        said, answered_by = trial.count.stopped, call(channel)[0]
        candidate.model.open.set()
        assert said.startswith("errors: ")
        assert answered_by == "6"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_candidate_whose_thread_dies_is_stopped_and_the_replica_lives_on(tmp_path: Path):
    with trying(tmp_path, version(7), "shadow", 1.0) as (endpoint, channel, trial):
        call(channel, text="die")
        thread = trial.candidate.batcher._thread
        thread.join(10)
        endpoint.server.check()
        endpoint.loop.call_soon_threadsafe(trial.check)
        assert eventually(lambda: trial.count.stopped.endswith("has died"))
        endpoint.run(endpoint.server.slots["sentiment"].end_trial())
        assert call(channel)[0] == "6"


def test_open_inference_takes_part_and_a_version_that_is_named_is_the_one_that_answers(tmp_path: Path):
    with trying(tmp_path, version(7), "canary", 0.5) as (_, channel, trial):

        def infer(wanted: str) -> str:
            method = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                pb.ModelInferRequest.SerializeToString,
                pb.ModelInferResponse.FromString,
            )
            text = pb.ModelInferRequest.InferInputTensor(
                name="input", datatype="BYTES", shape=[1], contents=pb.InferTensorContents(bytes_contents=[b"text"])
            )
            request = pb.ModelInferRequest(model_name="sentiment", model_version=wanted, inputs=[text])
            reply, ended = method.with_call(request, timeout=10)
            assert endpoints.trailers(ended)["eagerly-model-version"] == reply.model_version
            assert f'"{reply.model_version}"'.encode() in reply.outputs[0].contents.bytes_contents[0]
            return reply.model_version

        assert {infer("") for _ in range(60)} == {"6", "7"}
        counted = trial.count.tally.candidate.calls
        assert [infer("7") for _ in range(5)] == ["7"] * 5
        assert [infer("6") for _ in range(5)] == ["6"] * 5
        assert trial.count.tally.candidate.calls == counted, "only calls that chance has led are counted"
        with pytest.raises(grpc.RpcError, match="version 6 is served, and version 7 is on trial"):
            infer("8")


def test_a_shadow_answers_nobody_and_is_compared(tmp_path: Path):
    with trying(tmp_path, version(7, says="6"), "shadow", 1.0) as (endpoint, channel, trial):
        for _ in range(50):
            assert call(channel) == ("6", {"6"})
        assert eventually(lambda: trial.count.tally.compared == 50)
        assert trial.count.tally.agreed == 50
        assert trial.count.stopped == ""
        told = figures(endpoint)
        assert told['eagerly_rollout_agreed_total{service="sentiment"}'] == 50
        computed = urllib.request.urlopen(endpoint.metrics).read().decode()
        assert 'eagerly_batch_size_count{service="sentiment"} 50.0' in computed, "the shadow's are not the service's"


def test_a_shadow_that_disagrees_is_stopped_from_the_least_calls_on(tmp_path: Path):
    candidate = version(7)
    with trying(tmp_path, candidate, "shadow", 1.0) as (_, channel, trial):
        for _ in range(39):
            call(channel)
        assert eventually(lambda: trial.count.tally.compared == 39)
        assert not trial.count.stopped
        call(channel)
        assert eventually(lambda: trial.count.stopped)
        assert trial.count.stopped.startswith("disagreement: 100.0% of the answers to 40 calls")
        asked = len(candidate.model.seen)
        for _ in range(20):
            call(channel)
        assert len(candidate.model.seen) == asked


def test_a_shadow_that_hangs_delays_nobody_and_what_is_too_much_is_dropped_and_counted(tmp_path: Path):
    candidate = version(7, says="6")
    with trying(tmp_path, candidate, "shadow", 1.0) as (endpoint, channel, trial):
        candidate.model.open.clear()
        for _ in range(20):
            call(channel, items=MOST_WAITING_ITEMS // 8, timeout=5)
        assert eventually(lambda: trial.count.tally.dropped == 11), "one is asked, eight wait"
        assert not candidate.model.seen
        name = 'eagerly_rollout_calls_total{outcome="dropped",role="candidate",service="sentiment"}'
        assert figures(endpoint)[name] == 11
        candidate.model.open.set()
        assert eventually(lambda: trial.count.tally.compared == 9)


def test_copies_of_large_calls_are_bounded_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trials, "MOST_WAITING_BYTES", 8 * 1000)
    candidate = version(7, says="6")
    with trying(tmp_path, candidate, "shadow", 1.0) as (_, channel, trial):
        candidate.model.open.clear()
        for number in range(12):
            call(channel, items=1, timeout=5, text=f"{number:01000}")
        assert eventually(lambda: trial.count.tally.dropped == 3), "one is asked, eight wait"
        candidate.model.open.set()
        assert eventually(lambda: trial.count.tally.compared == 9)


def test_a_shadow_is_asked_only_once_the_caller_has_its_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    offered: list[float] = []
    offer = Trial._offer
    monkeypatch.setattr(Trial, "_offer", lambda self, copy: (offered.append(time.monotonic()), offer(self, copy)))
    with trying(tmp_path, version(7, says="6"), "shadow", 1.0) as (endpoint, channel, _):
        encoded: list[float] = []
        door = endpoint.server._rpcs[0].door
        end = door.figures.end
        monkeypatch.setattr(
            door.figures, "end", lambda code, seconds: (encoded.append(time.monotonic()), end(code, seconds))
        )
        call(channel)
        assert eventually(lambda: offered)
        assert encoded[0] <= offered[0], "the door has let the reply out"


def test_a_shadows_work_is_no_part_of_the_call_in_log_and_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from services import batching

    kept: list[object] = []
    submit = batching.Batcher.submit

    async def spy(self: batching.Batcher, inputs: list[Any], deadline: float = float("inf")) -> list[Any]:
        kept.append(visits.current.get())
        return await submit(self, inputs, deadline)

    monkeypatch.setattr(batching.Batcher, "submit", spy)
    with trying(tmp_path, version(7), "shadow", 1.0, access_log=str(tmp_path / "log")) as (_, channel, trial):
        kept.clear()
        call(channel)
        assert eventually(lambda: trial.count.tally.compared == 1)
        assert [visit is None for visit in kept] == [False, True]


def test_a_promoted_candidate_answers_warm_and_the_old_model_is_gone(tmp_path: Path):
    with trying(tmp_path, version(7), "canary", 0.5) as (endpoint, channel, trial):
        slot = endpoint.server.slots["sentiment"]
        warm = trial.candidate
        endpoint.run(slot.adopt())
        assert slot.current is warm
        assert {call(channel)[0] for _ in range(20)} == {"7"}
        models = [thread for thread in threading.enumerate() if thread.name == "model-sentiment"]
        assert len(models) == 1
        text = urllib.request.urlopen(endpoint.metrics).read().decode()
        assert [line.split('version="')[1][0] for line in text.splitlines() if line.startswith("eagerly_model_i")] == [
            "7"
        ]


def test_a_swap_or_an_end_takes_the_candidate_out_of_memory_and_fails_no_call(tmp_path: Path):
    with trying(tmp_path, version(7), "canary", 0.5) as (endpoint, channel, _):
        slot = endpoint.server.slots["sentiment"]
        endpoint.run(slot.swap(version(8)))
        assert slot.trial is None
        assert {call(channel)[0] for _ in range(20)} == {"8"}
        assert len([thread for thread in threading.enumerate() if thread.name == "model-sentiment"]) == 1


def test_a_candidate_that_hangs_does_not_keep_its_trial_from_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.trial.CLOSE_S", 0.2)
    candidate = version(7)
    with trying(tmp_path, candidate, "shadow", 1.0) as (endpoint, channel, _):
        candidate.model.open.clear()
        call(channel)
        endpoint.run(endpoint.server.slots["sentiment"].end_trial())
        assert call(channel)[0] == "6"
        candidate.model.open.set()
