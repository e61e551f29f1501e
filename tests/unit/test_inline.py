import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services import errors
from services.batches import Batch, Call
from services.batching import Batcher
from services.inline import Inline, Near

MS = 1e-3


class Model:
    """Doubles numbers; notes what it was asked together, and on which thread."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[str] = []
        self.busy_s = 0.0
        self.panics = False

    def __call__(self, inputs: list[int]) -> list[int]:
        self.batches.append(inputs)
        self.threads.append(threading.current_thread().name)
        until = time.thread_time() + self.busy_s
        while time.thread_time() < until:
            pass
        if self.panics:
            raise Panic
        if min(inputs) < 0:
            raise RuntimeError("negative")
        return [2 * number for number in inputs]


LOOP = "MainThread"


def run(scenario: Callable[[Model, Batcher], Awaitable[None]], **options: Any) -> None:
    """Runs a scenario with a batcher to which even numbers are plain, and which knows how quick its model is."""

    async def main() -> None:
        model = Model()
        batcher = Batcher(model, name="test", inline=Inline(lambda number: 1 - number % 2), **options)
        assert await batcher.submit([0]) == [0]
        assert model.threads == ["model-test"], "nothing was known of its time"
        model.batches.clear()
        model.threads.clear()
        await scenario(model, batcher)
        await batcher.close()

    asyncio.run(main())


def test_what_a_model_does_in_no_time_is_done_by_the_loop():
    async def scenario(model: Model, batcher: Batcher) -> None:
        assert await batcher.submit([2, 4]) == [4, 8]
        assert model.threads == [LOOP]

    run(scenario)


def test_calls_of_one_turn_are_computed_together_by_the_loop():
    async def scenario(model: Model, batcher: Batcher) -> None:
        calls = [asyncio.ensure_future(batcher.submit([2 * number])) for number in range(20)]
        assert [await call for call in calls] == [[4 * number] for number in range(20)]
        assert [len(batch) for batch in model.batches] == [20]
        assert model.threads == [LOOP]

    run(scenario)


def test_what_may_take_any_time_is_left_to_the_thread_and_so_is_all_that_comes_meanwhile():
    async def scenario(model: Model, batcher: Batcher) -> None:
        near = asyncio.ensure_future(batcher.submit([2]))
        odd = asyncio.ensure_future(batcher.submit([3]))
        later = asyncio.ensure_future(batcher.submit([4]))
        assert await asyncio.gather(near, odd, later) == [[4], [6], [8]]
        assert set(model.threads) == {"model-test"}
        assert await batcher.submit([6]) == [12]
        assert model.threads[-1] == LOOP

    run(scenario)


def test_a_call_with_more_work_than_the_loop_may_do_is_left_to_the_thread():
    async def scenario(model: Model, batcher: Batcher) -> None:
        model.busy_s = 3 * MS
        for _ in range(20):
            await batcher.submit([2])
        assert model.threads[-1] == LOOP
        model.busy_s = 30 * MS
        for _ in range(3):
            await batcher.submit([2])
        assert model.threads[-1] == "model-test"
        model.busy_s = 0
        for _ in range(30):
            await batcher.submit([2])
        assert model.threads[-1] == LOOP

    run(scenario)


def test_batches_of_one_size_say_nothing_of_much_larger_ones():
    inline = Inline(lambda _: 1)
    for _ in range(150):
        inline.learn(8, 2 * MS)
    assert inline.takes(16) and not inline.takes(24)
    assert inline.foretell(1024) == pytest.approx(256 * MS)
    inline.learn(256, 3 * MS)
    assert inline.takes(256) and inline.takes(24), "no more work takes no longer"


def test_a_batch_that_was_not_computed_whole_shows_that_more_is_slow_and_never_that_it_is_quick():
    inline = Inline(lambda _: 1)
    inline.learn(8, 0.1 * MS, whole=False)
    assert not inline.takes(1), "nothing is known"
    inline.learn(8, 3 * MS)
    inline.learn(8, 0.1 * MS, whole=False)
    assert inline.foretell(8) == pytest.approx(3 * MS)
    inline.learn(8, 50 * MS, whole=False)
    assert not inline.takes(8)


def test_inputs_that_take_longer_weigh_more():
    inline = Inline(lambda number: number)
    assert inline.weigh([1, 4]) == 5
    assert inline.weigh([1, 0, 4]) == inline.weigh([0]) == 0, "it may take any time"


class Panic(BaseException):
    """What no ordinary handler sees, such as a panic of a library in Rust."""


@pytest.mark.parametrize("number", [2, 3])
def test_a_panic_in_the_model_fails_its_batch_alone_on_the_loop_as_on_the_thread(number: int):
    async def scenario(model: Model, batcher: Batcher) -> None:
        model.panics = True
        with pytest.raises(errors.Failure):
            await asyncio.wait_for(batcher.submit([number]), 5)
        model.panics = False
        assert await batcher.submit([number]) == [2 * number]
        batcher.check()
        assert batcher.waiting_count == 0

    run(scenario)


def test_a_model_that_raises_on_the_loop_fails_its_batch_alone():
    async def scenario(model: Model, batcher: Batcher) -> None:
        with pytest.raises(errors.Failure):
            await batcher.submit([-2])
        assert await batcher.submit([2]) == [4]
        assert model.threads == [LOOP, LOOP]

    run(scenario)


def test_a_caller_who_goes_is_not_computed_for():
    async def scenario(model: Model, batcher: Batcher) -> None:
        gone = asyncio.ensure_future(batcher.submit([2]))
        stays = asyncio.ensure_future(batcher.submit([4]))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == [8]
        assert model.batches == [[4]]
        assert batcher.waiting_count == 0

    run(scenario)


def test_turns_in_which_the_loop_only_waits_for_more_calls_are_told_from_work():
    async def scenario(model: Model, batcher: Batcher) -> None:
        model.busy_s = 1 * MS
        for _ in range(3):
            await asyncio.gather(*(batcher.submit([2]) for _ in range(4)))
        batcher.take_idle()
        await batcher.submit([2])  # a crowd came lately
        assert 0 < batcher.take_idle() < 2 * MS
        assert batcher.take_idle() == 0

    run(scenario)


def test_closing_answers_what_waits_for_the_loop():
    async def scenario(model: Model, batcher: Batcher) -> None:
        waiting = [asyncio.ensure_future(batcher.submit([2 * number])) for number in range(5)]
        await asyncio.sleep(0)
        await batcher.close()
        assert [await call for call in waiting] == [[4 * number] for number in range(5)]

    run(scenario)


def test_no_call_is_lost_when_loop_and_thread_take_turns():
    async def scenario(model: Model, batcher: Batcher) -> None:
        async def caller(start: int) -> None:
            for step in range(200):
                number = 2 * step + (start == 0 and step % 40 == 20)
                assert await batcher.submit([number] * (1 + number % 3)) == [2 * number] * (1 + number % 3)
                await asyncio.sleep(0)

        seen: list[Batch] = []
        batcher.observe = seen.append
        await asyncio.gather(*(caller(start) for start in range(16)))
        await asyncio.sleep(0)
        assert batcher.waiting_count == 0
        assert sum(batch.size for batch in seen) == sum(len(batch) for batch in model.batches)
        assert {LOOP, "model-test"} <= set(model.threads)

    run(scenario)


async def begun(inline: Inline, arrivals: list[float], deadline: float = float("inf")) -> list[tuple[int, float]]:
    """Lets calls of one item come at these times; returns how many calls each batch had, and when it was begun."""
    batches, near, turn = [], Near(), 0.02 * MS
    now, coming = arrivals[0], sorted(arrivals)
    while coming or near.calls:
        while coming and coming[0] <= now:
            near.add(Call([1], asyncio.get_running_loop().create_future(), deadline, coming.pop(0)))
        if near.calls and not inline.waits(near, now):
            batches.append((len(near.calls), now))
            near = Near()
        now += turn
    return batches


def knowing(first_s: float, item_s: float) -> Inline:
    """Makes an Inline that knows how long batches take."""
    inline = Inline(lambda _: 1)
    for _ in range(50):
        for weight in (1, 2, 4, 8, 16, 32, 64):
            inline.learn(weight, first_s + (weight - 1) * item_s)
    return inline


def test_a_lone_caller_waits_for_others_but_once_in_a_while():
    arrivals = [number * 2 * MS for number in range(160)]
    batches = asyncio.run(begun(knowing(0.5 * MS, 0.05 * MS), arrivals))
    assert len(batches) == 160
    waits = [when - arrival for (_, when), arrival in zip(batches, arrivals, strict=True)]
    assert sum(wait > 0.1 * MS for wait in waits) <= 10
    assert max(waits) < 0.5 * MS


def test_many_callers_whose_calls_come_one_by_one_are_computed_together():
    inline = knowing(0.5 * MS, 0.05 * MS)
    arrivals = [group * 5 * MS + number * 0.15 * MS for group in range(60) for number in range(12)]
    batches = asyncio.run(begun(inline, arrivals))
    assert [size for size, _ in batches[-20:]] == [12] * 20


def test_nobody_waits_for_long_however_many_come():
    inline = knowing(0.5 * MS, 0.005 * MS)
    arrivals = [number * 0.1 * MS for number in range(2000)]
    batches = asyncio.run(begun(inline, arrivals))
    starts = [0.0, *(when for _, when in batches)]
    assert max(after - before for before, after in itertools.pairwise(starts)) < 9 * MS


def test_a_call_whose_caller_gives_up_soon_does_not_wait():
    inline = knowing(0.5 * MS, 0.05 * MS)
    asyncio.run(begun(inline, [group * 5 * MS + number * 0.15 * MS for group in range(60) for number in range(12)]))
    assert asyncio.run(begun(inline, [0.0], deadline=5 * MS)) == [(1, 0.0)]
