import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services import errors
from services.batches import Batch
from services.batching import Batcher


class Doubler:
    """Doubles numbers while its gate is open; raises on a negative one."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.started = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, inputs: list[int]) -> list[int]:
        self.batches.append(inputs)
        self.started.set()
        self.open.wait(10)
        if min(inputs) < 0:
            raise RuntimeError("negative")
        return [2 * number for number in inputs]


def run(scenario: Callable[[Doubler], Awaitable[None]]) -> None:
    asyncio.run(scenario(Doubler()))  # type: ignore[arg-type]


async def busy(batcher: Batcher, model: Doubler) -> "asyncio.Task[list[int]]":
    """Closes the gate and returns once the model holds one call."""
    model.open.clear()
    task = asyncio.ensure_future(batcher.submit([0]))
    await asyncio.to_thread(model.started.wait)
    return task


def test_calls_that_wait_together_are_computed_together():
    async def scenario(model: Doubler) -> None:
        batcher = Batcher(model, name="test")
        first = await busy(batcher, model)
        others = [asyncio.ensure_future(batcher.submit([n, n + 1])) for n in range(10)]
        await asyncio.sleep(0)
        model.open.set()
        assert await first == [0]
        assert [await other for other in others] == [[2 * n, 2 * n + 2] for n in range(10)]
        assert [len(batch) for batch in model.batches] == [1, 20]
        await batcher.close()

    run(scenario)


def test_a_batch_holds_no_more_than_max_batch_and_loses_no_call():
    async def scenario(model: Doubler) -> None:
        batcher = Batcher(model, name="test", max_batch=8)
        first = await busy(batcher, model)
        others = [asyncio.ensure_future(batcher.submit([n] * 3)) for n in range(20)]
        large = asyncio.ensure_future(batcher.submit(list(range(30))))
        await asyncio.sleep(0)
        model.open.set()
        assert [await other for other in others] == [[2 * n] * 3 for n in range(20)]
        assert await large == [2 * n for n in range(30)]
        assert max(len(batch) for batch in model.batches) <= 8
        await first
        await batcher.close()

    run(scenario)


def test_a_full_queue_refuses_with_a_time_to_come_back():
    async def scenario(model: Doubler) -> None:
        batcher = Batcher(model, name="test", max_waiting=4)
        first = await busy(batcher, model)
        waiting = asyncio.ensure_future(batcher.submit([1, 2, 3, 4]))
        await asyncio.sleep(0)
        assert batcher.waiting_count == 4
        with pytest.raises(errors.Busy) as refused:
            await batcher.submit([5])
        assert refused.value.retry_after_s > 0
        model.open.set()
        assert await waiting == [2, 4, 6, 8]
        assert await batcher.submit([5]) == [10]
        await first
        await batcher.close()

    run(scenario)


def test_a_cancelled_call_is_dropped_before_compute():
    async def scenario(model: Doubler) -> None:
        batcher = Batcher(model, name="test")
        first = await busy(batcher, model)
        gone = asyncio.ensure_future(batcher.submit([13]))
        stays = asyncio.ensure_future(batcher.submit([1]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        model.open.set()
        assert await stays == [2]
        assert model.batches == [[0], [1]]
        await first
        await batcher.close()

    run(scenario)


def test_a_call_whose_deadline_passes_in_the_queue_is_not_computed():
    async def scenario(model: Doubler) -> None:
        batcher = Batcher(model, name="test")
        first = await busy(batcher, model)
        late = asyncio.ensure_future(batcher.submit([13], time.monotonic() + 0.01))
        await asyncio.sleep(0.02)
        model.open.set()
        with pytest.raises(errors.TooLate):
            await late
        assert model.batches == [[0]]
        await first
        await batcher.close()

    run(scenario)


def test_a_call_with_less_time_than_the_quickest_work_took_is_not_computed():
    async def scenario(model: Doubler) -> None:
        def slow(inputs: list[int]) -> list[int]:
            time.sleep(0.05)
            return model(inputs)

        batcher = Batcher(slow, name="test")
        await batcher.submit([1])
        with pytest.raises(errors.TooLate):
            await batcher.submit([2], time.monotonic() + 0.02)
        assert model.batches == [[1]]
        await batcher.close()

    run(scenario)


def test_callers_with_little_time_are_answered_though_the_first_batches_took_long():
    async def scenario(_: Doubler) -> None:
        model = Timed(0.1)
        batcher = Batcher(model, name="test")
        await batcher.submit([0])
        model.item_s = 0.0005
        answered = 0
        for number in range(1, 101):
            try:
                await batcher.submit([number], time.monotonic() + 0.03)
                answered += 1
            except errors.TooLate:
                assert number < 20
        assert answered > 80
        await batcher.close()

    run(scenario)


def test_a_model_that_is_as_slow_as_it_was_is_not_asked_in_vain_by_call_after_call():
    async def scenario(_: Doubler) -> None:
        model = Timed(0.05)
        batcher = Batcher(model, name="test")
        await batcher.submit([0])
        for number in range(1, 61):
            with contextlib.suppress(errors.TooLate):
                await batcher.submit([number], time.monotonic() + 0.01)
        assert 1 < len(model.computed) < 10
        await batcher.close()

    run(scenario)


class Timed:
    """Takes a time that the test sets for each item, and says what it computed."""

    def __init__(self, item_s: float) -> None:
        self.item_s = item_s
        self.computed: list[int] = []

    def __call__(self, inputs: list[int]) -> list[int]:
        time.sleep(self.item_s * len(inputs))
        self.computed += inputs
        return inputs


def test_a_call_is_refused_at_once_when_the_work_before_it_takes_longer_than_its_time():
    async def scenario(_: Doubler) -> None:
        model = Timed(0.01)
        batcher = Batcher(model, name="test", max_batch=1)
        await batcher.submit([0])
        waiting = [asyncio.ensure_future(batcher.submit([number])) for number in range(1, 41)]
        await asyncio.sleep(0)
        asked = time.monotonic()
        with pytest.raises(errors.TooLate):
            await batcher.submit([99], asked + 0.1)
        assert time.monotonic() - asked < 0.1
        assert await batcher.submit([41], asked + 10) == [41]
        assert [await one for one in waiting] == [[number] for number in range(1, 41)]
        assert 99 not in model.computed
        await batcher.close()

    run(scenario)


def test_no_call_is_refused_that_a_model_twice_as_fast_as_ever_could_answer():
    async def scenario(_: Doubler) -> None:
        model = Timed(0.02)
        batcher = Batcher(model, name="test", max_batch=1)
        await batcher.submit([0])
        model.item_s = 0.0
        now = time.monotonic()
        waiting = [asyncio.ensure_future(batcher.submit([number], now + 0.3)) for number in range(1, 21)]
        assert [await one for one in waiting] == [[number] for number in range(1, 21)]
        await batcher.close()

    run(scenario)


def test_answers_that_are_errors_do_not_make_the_model_look_fast():
    async def scenario(model: Doubler) -> None:
        def check(inputs: list[int]) -> list[int | ValueError]:
            if inputs == [13]:
                return [ValueError("no")]
            time.sleep(0.05)
            return list(inputs)

        batcher = Batcher(check, name="test")
        await batcher.submit([1])
        await batcher.submit([13])
        with pytest.raises(errors.TooLate):
            await batcher.submit([2], time.monotonic() + 0.02)
        await batcher.close()

    run(scenario)


def test_cancelled_calls_make_room_in_a_full_queue_at_once_and_are_never_computed():
    async def scenario(model: Doubler) -> None:
        batcher = Batcher(model, name="test", max_waiting=4)
        first = await busy(batcher, model)
        for _ in range(100):
            storm = [asyncio.ensure_future(batcher.submit([13])) for _ in range(4)]
            await asyncio.sleep(0)
            assert batcher.waiting_count == 4
            for one in storm:
                one.cancel()
            await asyncio.sleep(0)
            assert batcher.waiting_count == 0
        first.cancel()
        stays = asyncio.ensure_future(batcher.submit([1]))
        await asyncio.sleep(0)
        model.open.set()
        assert await stays == [2]
        await asyncio.sleep(0)
        assert batcher.waiting_count == 0
        assert model.batches == [[0], [1]]
        await batcher.close()

    run(scenario)


def test_a_model_that_raises_fails_its_batch_alone(caplog: pytest.LogCaptureFixture):
    async def scenario(model: Doubler) -> None:
        batcher = Batcher(model, name="test")
        with pytest.raises(errors.Failure) as failed:
            await batcher.submit([-1])
        assert "negative" not in str(failed.value)
        assert failed.value.request_id in caplog.text
        assert "RuntimeError: negative" in caplog.text
        assert await batcher.submit([4]) == [8]
        await batcher.close()

    with caplog.at_level(logging.ERROR):
        run(scenario)


def test_a_call_that_breaks_the_model_fails_alone_and_not_those_computed_with_it(caplog: pytest.LogCaptureFixture):
    async def scenario(model: Doubler) -> None:
        batcher = Batcher(model, name="test")
        first = await busy(batcher, model)
        calls = [asyncio.ensure_future(batcher.submit([n, n + 1])) for n in range(9)]
        bad = [asyncio.ensure_future(batcher.submit([4, -1])), asyncio.ensure_future(batcher.submit([-2]))]
        calls += [asyncio.ensure_future(batcher.submit([n, n + 1])) for n in range(9, 12)]
        await asyncio.sleep(0)
        model.open.set()
        assert await first == [0]
        assert [await call for call in calls] == [[2 * n, 2 * n + 2] for n in range(12)]
        for call in bad:
            with pytest.raises(errors.Failure):
                await call
        assert len(model.batches[1]) == 27
        await batcher.close()

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert caplog.text.count("RuntimeError: negative") == 2


def test_a_panic_of_a_library_fails_the_call_that_brought_it_about_alone():
    class Panic(BaseException):
        """What a Rust extension raises, which is no Exception."""

    gate = threading.Event()

    def predict(inputs: list[int]) -> list[int]:
        gate.wait(10)
        if 13 in inputs:
            raise Panic
        return inputs

    async def scenario(model: Doubler) -> None:
        batcher = Batcher(predict, name="test")
        calls = [asyncio.ensure_future(batcher.submit([n])) for n in (1, 13, 2)]
        await asyncio.sleep(0)
        gate.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [answers[0], answers[2]] == [[1], [2]]
        assert isinstance(answers[1], errors.Failure)
        await batcher.close()

    run(scenario)


class Failing:
    """Fails after a while whatever it is asked, as without its database; the first call is held back at its gate."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.gate = threading.Event()
        self.asked: list[int] = []

    def __call__(self, inputs: list[int]) -> list[int]:
        if inputs == [0]:
            self.gate.wait(10)
            return inputs
        self.asked.append(len(inputs))
        time.sleep(self.seconds)
        raise RuntimeError("no database")


async def behind(model: Failing, batcher: Batcher, submit: Callable[[int], Awaitable[list[int]]]) -> list[Any]:
    """Has 64 calls wait behind one, and lets all go."""
    first = asyncio.ensure_future(batcher.submit([0]))
    await asyncio.sleep(0.05)
    calls = [asyncio.ensure_future(submit(number)) for number in range(1, 65)]
    await asyncio.sleep(0.01)
    model.gate.set()
    await first
    return calls


def test_a_model_that_fails_is_not_asked_again_for_callers_who_have_gone():
    async def scenario(_: Doubler) -> None:
        model = Failing(0.05)
        batcher = Batcher(model, name="test")
        calls = await behind(model, batcher, lambda number: batcher.submit([number]))
        await asyncio.sleep(0.02)
        for call in calls:
            call.cancel()
        with pytest.raises(errors.Failure):
            await batcher.submit([77])
        assert model.asked == [64, 1]
        await batcher.close()

    run(scenario)


def test_a_model_that_fails_is_not_asked_again_for_callers_whose_time_is_up():
    async def scenario(_: Doubler) -> None:
        model = Failing(0.05)
        batcher = Batcher(model, name="test")
        until = time.monotonic() + 0.2
        calls = await behind(model, batcher, lambda number: batcher.submit([number], until))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, errors.TooLate) for answer in answers)
        assert model.asked[0] == 64 and len(model.asked) < 6
        await batcher.close()

    run(scenario)


def test_a_model_that_fails_for_long_fails_all_the_calls_of_its_batch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.batching.LONGEST_S", 0.2)

    async def scenario(_: Doubler) -> None:
        model = Failing(0.05)
        batcher = Batcher(model, name="test")
        calls = await behind(model, batcher, lambda number: batcher.submit([number]))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, errors.Failure) for answer in answers)
        assert len(model.asked) < 7
        await batcher.close()

    run(scenario)


def test_those_who_wait_are_answered_where_the_batch_failed_and_others_have_gone():
    gate = threading.Event()

    def predict(inputs: list[int]) -> list[int]:
        gate.wait(10)
        time.sleep(0.03)
        if 13 in inputs:
            raise RuntimeError("unlucky")
        return [2 * number for number in inputs]

    async def scenario(_: Doubler) -> None:
        batcher = Batcher(predict, name="test")
        first = asyncio.ensure_future(batcher.submit([0]))
        await asyncio.sleep(0.05)
        calls = [asyncio.ensure_future(batcher.submit([number, number])) for number in range(10, 18)]
        await asyncio.sleep(0.01)
        gate.set()
        await first
        await asyncio.sleep(0.01)
        for gone in (0, 5):
            calls[gone].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [answers[at] for at in (1, 2, 4, 6, 7)] == [[2 * (10 + at)] * 2 for at in (1, 2, 4, 6, 7)]
        assert isinstance(answers[3], errors.Failure)
        await batcher.close()

    run(scenario)


def test_a_large_call_whose_caller_has_gone_is_not_computed_to_its_end():
    async def scenario(_: Doubler) -> None:
        model = Timed(0.01)
        batcher = Batcher(model, name="test", max_batch=4)
        large = asyncio.ensure_future(batcher.submit(list(range(400))))
        await asyncio.sleep(0.1)
        large.cancel()
        await batcher.submit([999])
        assert len(model.computed) < 100
        await batcher.close()

    run(scenario)


def test_a_model_that_is_away_is_asked_once_for_all():
    asked: list[int] = []

    def predict(inputs: list[int]) -> list[int]:
        asked.append(len(inputs))
        time.sleep(0.1)
        raise errors.Away("its process is starting again")

    async def scenario(model: Doubler) -> None:
        batcher = Batcher(predict, name="test")
        calls = [asyncio.ensure_future(batcher.submit([n])) for n in range(8)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, errors.Away) for answer in answers)
        assert sum(asked) == 8
        await batcher.close()

    run(scenario)


def test_a_call_whose_items_take_longer_than_is_left_when_its_turn_comes_is_not_computed():
    batches: list[int] = []
    gate = threading.Event()

    def predict(inputs: list[int]) -> list[int]:
        if inputs == [0]:
            gate.wait(10)
        else:
            time.sleep(0.002 * len(inputs))
        batches.append(len(inputs))
        return inputs

    async def scenario(model: Doubler) -> None:
        batcher = Batcher(predict, name="test")
        await batcher.submit([1] * 64)  # from which it is known what an item takes at the least
        first = asyncio.ensure_future(batcher.submit([0]))
        await asyncio.sleep(0.05)
        large = asyncio.ensure_future(batcher.submit([1] * 400, deadline=time.monotonic() + 0.6))
        await asyncio.sleep(0.4)
        gate.set()
        await first
        with pytest.raises(errors.TooLate):
            await large
        assert batches == [64, 1]
        await batcher.close()

    run(scenario)


def test_close_answers_what_waits_and_refuses_what_comes():
    async def scenario(model: Doubler) -> None:
        batcher = Batcher(model, name="test", max_batch=2)
        first = await busy(batcher, model)
        waiting = [asyncio.ensure_future(batcher.submit([n, n])) for n in range(5)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(errors.Unavailable):
            await batcher.submit([1])
        model.open.set()
        await closing
        assert [await one for one in waiting] == [[2 * n, 2 * n] for n in range(5)]
        assert await first == [0]

    run(scenario)


def test_each_batch_is_reported_with_its_size_and_times():
    async def scenario(model: Doubler) -> None:
        seen: list[Batch] = []
        batcher = Batcher(model, name="test")
        batcher.observe = seen.append
        await batcher.submit([1, 2, 3])
        await batcher.close()
        assert [batch.size for batch in seen] == [3]
        assert seen[0].started >= seen[0].calls[0].submitted
        assert 0 <= seen[0].compute_s < 1

    run(scenario)


def test_calls_that_are_refused_for_lack_of_time_or_room_are_counted_and_those_that_waited_reported():
    async def scenario(model: Doubler) -> None:
        seen: list[Batch] = []
        batcher = Batcher(model, name="test", max_waiting=2)
        batcher.observe = seen.append
        first = await busy(batcher, model)
        late = asyncio.ensure_future(batcher.submit([13], time.monotonic() + 0.01))
        await asyncio.sleep(0.02)
        with pytest.raises(errors.Busy):
            await batcher.submit([1, 2])
        with pytest.raises(errors.TooLate):
            await batcher.submit([1], time.monotonic())
        model.open.set()
        await asyncio.wait([first, late])
        await batcher.close()
        assert (batcher.take_refused(), batcher.take_refused()) == (3, 0)
        assert [len(batch.late) for batch in seen] == [0, 1]
        assert isinstance(late.exception(), errors.TooLate)

    run(scenario)


def test_the_loop_stays_free_while_the_model_computes():
    async def scenario(model: Doubler) -> None:
        batcher = Batcher(model, name="test")
        held = await busy(batcher, model)
        await asyncio.wait_for(asyncio.sleep(0.01), 1)
        assert not held.done()
        model.open.set()
        await held
        await batcher.close()

    run(scenario)
