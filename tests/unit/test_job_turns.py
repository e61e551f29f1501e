"""Who runs and who waits on a cluster: by priority, then by submission, and never forgotten."""

import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from pipelines import job_log, turns
from pipelines.settings import Launch
from pipelines.turns import SILENCE_SECONDS, Book, Need

FOUR = {"CPU": 4.0}


def need(name: str, workers: int = 4, priority: int = 0, since: float = 0.0, gpu: bool = False) -> Need:
    return Need(name, priority, since, workers, gpu)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "turns.db", 0.0)


def test_a_job_runs_where_there_is_room_and_waits_where_there_is_none(book: Book) -> None:
    assert book.ask(need("first", workers=3), FOUR, FOUR, 0) == 0
    assert book.ask(need("small", workers=1, since=1), FOUR, {"CPU": 1.0}, 0) == 0
    assert book.ask(need("late", workers=1, since=2), FOUR, {"CPU": 0.0}, 0) == 1


def test_a_higher_priority_goes_first_and_equal_ones_in_the_order_of_submission(book: Book) -> None:
    assert book.ask(need("runs"), FOUR, FOUR, 0) == 0
    for name, priority, since in (("b", 0, 2.0), ("a", 0, 1.0), ("urgent", 9, 3.0)):
        book.ask(need(name, priority=priority, since=since), FOUR, FOUR, 0)
    assert book.order() == [("runs", True), ("urgent", False), ("a", False), ("b", False)]
    book.leave("runs")
    assert book.ask(need("a", since=1.0), FOUR, FOUR, 0) == 1
    assert book.ask(need("urgent", priority=9, since=3.0), FOUR, FOUR, 0) == 0


def test_a_small_job_never_overtakes_a_large_one_that_waits(book: Book) -> None:
    book.ask(need("runs", workers=2), FOUR, FOUR, 0)
    assert book.ask(need("large", workers=4, since=1), FOUR, {"CPU": 2.0}, 0) == 1
    assert book.ask(need("small", workers=1, since=2), FOUR, {"CPU": 2.0}, 0) == 2


def test_what_others_use_is_not_free(book: Book) -> None:
    book.ask(need("runs", workers=1), FOUR, FOUR, 0)
    assert book.ask(need("next", workers=2, since=1), FOUR, {"CPU": 1.0}, 0) == 1
    assert book.ask(need("next", workers=2, since=1), FOUR, {"CPU": 3.0}, 0) == 0


def test_gpus_are_counted_beside_processors(book: Book) -> None:
    there = {"CPU": 8.0, "GPU": 1.0}
    assert book.ask(need("trains", workers=1, gpu=True), there, there, 0) == 0
    assert book.ask(need("another", workers=1, gpu=True, since=1), there, there, 0) == 1
    book.leave("another")
    assert book.ask(need("plain", workers=1, since=2), there, there, 0) == 0


def test_the_first_of_an_empty_cluster_runs_so_that_an_autoscaler_hears_of_it(book: Book) -> None:
    assert book.ask(need("first", workers=8), {"CPU": 0.0}, {"CPU": 0.0}, 0) == 0
    assert book.ask(need("second", workers=1, since=1), {"CPU": 0.0}, {"CPU": 0.0}, 0) == 1


def test_a_job_that_is_not_heard_of_has_died_and_frees_what_it_held(book: Book) -> None:
    book.ask(need("dies"), FOUR, FOUR, 0)
    assert book.ask(need("next", since=1), FOUR, FOUR, SILENCE_SECONDS) == 1
    book.beat(need("dies"), SILENCE_SECONDS)
    assert book.ask(need("next", since=1), FOUR, FOUR, SILENCE_SECONDS + 5) == 1
    assert book.ask(need("next", since=1), FOUR, FOUR, 2 * SILENCE_SECONDS + 1) == 0


def test_a_job_that_was_taken_for_dead_holds_its_share_again_once_it_is_heard_of(book: Book) -> None:
    book.ask(need("runs"), FOUR, FOUR, 0)
    later = SILENCE_SECONDS + 1
    assert book.ask(need("next", workers=1, since=1), FOUR, {"CPU": 0.0}, later) == 0
    book.beat(need("runs"), later + 1)
    assert book.order() == [("runs", True), ("next", True)]
    book.leave("next")
    assert book.ask(need("third", workers=1, since=2), FOUR, {"CPU": 0.0}, later + 2) == 1
    book.leave("runs")
    assert book.ask(need("third", workers=1, since=2), FOUR, FOUR, later + 3) == 0


def test_a_job_that_asks_again_after_it_died_asks_for_what_it_now_needs(book: Book) -> None:
    assert book.ask(need("b", workers=1), FOUR, FOUR, 1) == 0
    assert book.ask(need("a", workers=3, since=2), FOUR, {"CPU": 3.0}, 2) == 0
    for moment in range(5, 3600, 3):
        book.beat(need("a", workers=3, since=2), moment)
    again = need("b", workers=4, since=3600)
    assert book.ask(again, FOUR, {"CPU": 1.0}, 3600) == 1
    assert book.order() == [("a", True), ("b", False)]
    book.leave("a")
    assert book.ask(again, FOUR, FOUR, 3601) == 0


def test_a_job_that_asks_again_at_once_keeps_its_place_and_its_share_unless_it_wants_more(book: Book) -> None:
    assert book.ask(need("runs", workers=2), FOUR, FOUR, 0) == 0
    assert book.ask(need("first", workers=3, since=1), FOUR, {"CPU": 2.0}, 1) == 1
    assert book.ask(need("second", workers=3, since=2), FOUR, {"CPU": 2.0}, 2) == 2
    assert book.ask(need("first", workers=4, since=3), FOUR, {"CPU": 2.0}, 3) == 1
    assert book.ask(need("runs", workers=2, since=4), FOUR, {"CPU": 2.0}, 4) == 0
    assert book.order() == [("runs", True), ("first", False), ("second", False)]
    book.leave("first")
    assert book.ask(need("second", workers=2, since=2), FOUR, {"CPU": 2.0}, 5) == 0
    assert book.ask(need("runs", workers=3, since=6), FOUR, {"CPU": 2.0}, 6) == 1
    book.leave("second")
    assert book.ask(need("runs", workers=3, since=6), FOUR, FOUR, 7) == 0


class Direct:
    """The actor's methods, called at once in this process."""

    def __init__(self, book: Book) -> None:
        self.leave = Method(book.leave)
        self.ask = Method(lambda asked: book.ask(Need(**asked), FOUR, FOUR, 1.0))


class Method:
    def __init__(self, remote: Callable[..., Any]) -> None:
        self.remote = remote


def test_a_queued_job_that_is_stopped_leaves_at_once(
    book: Book, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    book.ask(need("runs"), FOUR, FOUR, 0.0)
    monkeypatch.setattr(turns, "_answer", lambda call: call(Direct(book)))
    for name, value in (("EAGERLY_JOB", "waits"), ("EAGERLY_JOB_PRIORITY", "0"), ("EAGERLY_JOB_SINCE", "1")):
        monkeypatch.setenv(name, value)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as ray.init() does
    stop = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(SystemExit), turns.turn(Launch(), stop.start):
            pytest.fail("it was not its turn")
    finally:
        stop.join()
        signal.signal(signal.SIGTERM, before)
    assert job_log.latest(capsys.readouterr().err.splitlines()) == {"phase": "waiting", "position": 1}
    assert book.order() == [("runs", True)]


def test_the_order_outlives_the_process_that_keeps_it(book: Book, tmp_path: Path) -> None:
    book.ask(need("runs"), FOUR, FOUR, 0)
    book.ask(need("waits", since=1, priority=3), FOUR, FOUR, 0)
    again = Book(tmp_path / "turns.db", 1000.0)
    assert again.order() == [("runs", True), ("waits", False)]
    assert again.ask(need("waits", since=1, priority=3), FOUR, FOUR, 1001.0) == 1


EIGHT = {"CPU": 8.0}


def test_what_a_job_that_was_just_admitted_will_take_is_not_free_though_others_use_a_part(book: Book) -> None:
    assert book.ask(need("a", workers=2), EIGHT, {"CPU": 6.0}, 0) == 0
    assert book.ask(need("b", workers=2, since=1), EIGHT, {"CPU": 4.0}, 1) == 0  # a has its own
    assert book.ask(need("c", workers=4, since=2), EIGHT, {"CPU": 4.0}, 2) == 1
    assert book.ask(need("c", workers=4, since=2), EIGHT, {"CPU": 4.0}, 3) == 1
    assert book.ask(need("d", workers=1, since=3, gpu=True), {**EIGHT, "GPU": 1}, {"CPU": 4.0, "GPU": 1.0}, 4) == 2
    book.leave("d")
    assert book.ask(need("c", workers=2, since=2), EIGHT, {"CPU": 4.0}, 5) == 0
    assert book.ask(need("e", workers=1, since=4), EIGHT, {"CPU": 2.0}, 6) == 1


def test_a_job_that_waits_does_not_wait_longer_for_one_whose_workers_run(book: Book) -> None:
    assert book.ask(need("a", workers=2), EIGHT, EIGHT, 0) == 0
    assert book.ask(need("c", workers=6, since=1), EIGHT, {"CPU": 6.0}, 1) == 0


def test_a_job_whose_room_others_freed_as_it_began_holds_nobody_up_for_long(book: Book) -> None:
    assert book.ask(need("a", workers=2), EIGHT, {"CPU": 4.0}, 0) == 0
    assert book.ask(need("c", workers=4, since=1), EIGHT, {"CPU": 4.0}, 1) == 1
    book.beat(need("a", workers=2), turns.TAKE_SECONDS)
    assert book.ask(need("c", workers=4, since=1), EIGHT, {"CPU": 4.0}, turns.TAKE_SECONDS) == 0


def test_workers_with_a_gpu_take_no_processor_of_the_cluster(book: Book) -> None:
    there = {"CPU": 4.0, "GPU": 8.0}
    assert book.ask(need("a", gpu=True), there, there, 0) == 0
    assert book.ask(need("b", gpu=True, since=1), there, {"CPU": 4.0, "GPU": 4.0}, 0) == 0
    assert book.ask(need("c", workers=4, since=2), there, {"CPU": 4.0, "GPU": 0.0}, 0) == 0
    assert book.ask(need("d", workers=1, since=3), there, {"CPU": 0.0, "GPU": 0.0}, 0) == 1


def test_a_job_that_asks_for_processors_instead_of_gpus_gives_up_the_gpus(book: Book) -> None:
    there = {"CPU": 4.0, "GPU": 4.0}
    assert book.ask(need("others", workers=4), there, there, 0) == 0
    assert book.ask(need("a", gpu=True, since=1), there, {"CPU": 0.0, "GPU": 4.0}, 0) == 0
    assert book.ask(need("a", since=1), there, {"CPU": 0.0, "GPU": 4.0}, 0) == 1


class Refusing:
    """An actor that answers so many times with an error, then lets the job run."""

    def __init__(self, times: int, problem: Exception) -> None:
        self.times, self.problem = times, problem
        self.ask, self.leave = Method(lambda asked: self), Method(lambda name: self)

    def answer(self) -> int:
        self.times -= 1
        if self.times >= 0:
            raise self.problem
        return 0


def failed(cause: Exception) -> Exception:
    """What Ray raises here for what a method of an actor raised."""
    text = f"Traceback (most recent call last):\n{type(cause).__name__}: {cause}"
    return RayTaskError("ask", text, cause, "actor", 1, "127.0.0.1").as_instanceof_cause()


@pytest.mark.parametrize("times", [1, 3])
def test_a_full_disk_of_the_queue_is_waited_out_and_said_once_after_a_while(
    times: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusing = Refusing(times, failed(sqlite3.OperationalError("database or disk is full")))
    monkeypatch.setattr(turns, "actor", lambda: refusing)
    monkeypatch.setattr("ray.get", lambda asked, timeout: asked.answer())
    monkeypatch.setattr(turns, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(turns, "SILENT_SECONDS", 0.04)
    for name, value in (("EAGERLY_JOB", "waits"), ("EAGERLY_JOB_PRIORITY", "0"), ("EAGERLY_JOB_SINCE", "1")):
        monkeypatch.setenv(name, value)
    with turns.turn(Launch()):
        lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if not job_log.read(line)]
    why = "OperationalError: database or disk is full"
    sentence = f"eagerly: the cluster's queue does not answer, and is asked again until it does: {why}"
    assert said == ([sentence] if times > 1 else [])
    assert job_log.latest(lines) == {"phase": "starting", "position": 0}


def test_a_mistake_of_the_queue_itself_is_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "actor", lambda: Refusing(1, failed(KeyError("ours"))))
    monkeypatch.setattr("ray.get", lambda asked, timeout: asked.answer())
    for name, value in (("EAGERLY_JOB", "waits"), ("EAGERLY_JOB_PRIORITY", "0"), ("EAGERLY_JOB_SINCE", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(KeyError), turns.turn(Launch()):
        pytest.fail("it was not its turn")
