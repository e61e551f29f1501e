"""When replicas are added and taken away, and what is refused."""

import time
from types import SimpleNamespace

import pytest

from eagerly import flags
from eagerly.commands.serve import Serve
from services.options import Options
from services.resources import Hardware
from services.scaling import BUSY, LOOP, QUEUE_S, Meter, QueuePolicy, Scaling, Thread, wanted

TARGET_S = 0.05


@pytest.mark.parametrize(
    ("now", "queue_s", "busy", "then"),
    [
        (1, [0.2], [1.0], 2),  # at most twice as many at once, however long the wait
        (1, [0.051], [1.0], 2),
        (2, [0.2, 0.1], [1.0, 1.0], 4),
        (4, [0.06] * 4, [1.0] * 4, 5),
        (2, [0.0, 0.2], [0.0, 1.0], 2),  # one idles: calls do not spread, and one more would idle too
        (2, [0.04, 0.04], [0.1, 0.1], 2),  # neither too long nor short
        (3, [0.01] * 3, [0.9] * 3, 3),  # short because there are three
        (3, [0.01] * 3, [0.4] * 3, 2),
        (4, [0.0] * 4, [0.0] * 4, 1),
        (3, [0.0, 0.0, 0.04], [0.0, 0.0, 0.5], 3),  # the wait at one is nearly the target
        (1, [0.0], [0.0], 1),
    ],
)
def test_replicas_are_wanted_by_wait_and_work(now: int, queue_s: list[float], busy: list[float], then: int):
    assert wanted(now, queue_s, busy, TARGET_S) == then


@pytest.mark.parametrize(
    ("now", "busy", "loops", "then"),
    [
        (1, [0.95], [0.95], 2),  # calls wait where no queue shows
        (2, [0.95, 0.9], [0.95, 0.9], 3),
        (2, [0.95, 0.01], [0.95, 0.01], 2),  # they do not spread
        (2, [0.5, 0.5], [0.5, 0.5], 2),
        (1, [1.0], [0.2], 1),  # the model is busy, and nobody waits for it
    ],
)
def test_replicas_are_wanted_for_event_loops_that_are_full(now: int, busy: list[float], loops: list[float], then: int):
    assert wanted(now, [0.001] * now, busy, TARGET_S, loops) == then


@pytest.mark.parametrize(
    ("busy", "refused", "then"),
    [
        ([1.0], [0.6], 2),  # callers wait for less than the target, and most in vain
        ([1.0], [0.005], 1),
        ([0.1], [1.0], 1),  # nobody could answer within their time
    ],
)
def test_a_replica_is_added_where_busy_ones_refuse_calls(busy: list[float], refused: list[float], then: int):
    assert wanted(1, [0.03], busy, TARGET_S, [0.1], refused) == then


@pytest.mark.parametrize(
    ("world_size", "scaling", "then"),
    [
        (3, {"replicas": 3}, 3),
        (None, {"replicas": 2, "max_replicas": 5}, 2),  # from a config file, as in Kubernetes
        (1, {"replicas": 2, "max_replicas": 5}, 2),
        (None, {"replicas": 1, "max_replicas": 5}, 1),
    ],
)
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")  # ray.serve's own
def test_replicas_that_should_be_there_are_at_least_the_least(
    world_size: int | None, scaling: dict[str, int], then: int
):
    from services import endpoint

    bound = endpoint.application(Options(), [], "", Hardware(Scaling(**scaling)))._bound_deployment
    assert endpoint.expected(world_size, bound.init_args[-1]) == then


def test_waiting_for_calls_is_no_work():
    thread = Thread()
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    assert thread.read(idle_s=0.05) < 0.1


def test_a_thread_is_as_busy_as_it_computes():
    thread = Thread()
    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        pass
    worked = thread.read()
    time.sleep(0.05)
    assert thread.read() < 0.2 < worked


def context(now: int, **reported: dict[str, float]) -> SimpleNamespace:
    """What Serve tells a policy, as far as this one asks."""
    return SimpleNamespace(target_num_replicas=now, aggregated_metrics=reported)


def test_none_is_added_while_a_replica_is_starting_or_has_said_nothing():
    policy = QueuePolicy(TARGET_S)
    assert policy(context(2)) == (2, {})  # type: ignore[arg-type]
    one = context(2, **{QUEUE_S: {"a": 1.0}, BUSY: {"a": 1.0}})
    assert policy(one) == (2, {})  # type: ignore[arg-type]
    idle = context(4, **{name: {"a": 0.0, "b": 0.0, "c": 0.0} for name in (QUEUE_S, BUSY, LOOP)})
    assert policy(idle) == (1, {})  # type: ignore[arg-type] # one that cannot start keeps no others
    both = context(2, **{QUEUE_S: {"a": 1.0, "b": 1.0}, BUSY: {"a": 1.0, "b": 1.0}})
    assert policy(both) == (4, {})  # type: ignore[arg-type]
    full = context(1, **{QUEUE_S: {"a": 0.0}, BUSY: {"a": 1.0}, LOOP: {"a": 1.0}})
    assert policy(full) == (2, {})  # type: ignore[arg-type]


def test_a_meter_tells_the_mean_wait_and_begins_anew_with_each_reading():
    meter = Meter()
    meter.add([0.1, 0.3], compute_s=0.0)
    wait_s, busy, _ = meter.read(is_waiting=False)
    assert (wait_s, busy) == (pytest.approx(0.2), 0.0)
    assert meter.read(is_waiting=False)[0] == 0.0


def test_calls_that_wait_for_a_batch_without_end_are_seen():
    meter = Meter()
    began = time.monotonic()
    time.sleep(0.02)
    wait_s, *_ = meter.read(is_waiting=True)
    assert 0.02 <= wait_s <= time.monotonic() - began + 0.001


def test_a_batch_longer_than_the_time_between_readings_counts_in_full():
    meter = Meter()
    meter.add([0.0], compute_s=60.0)
    assert [meter.read(is_waiting=False)[1] for _ in range(3)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--replicas", "0"], "--replicas is 0; the least allowed is 1"),
        (["--replicas", "3", "--max-replicas", "2"], "--max-replicas is 2; it must be at least --replicas, 3, or 0"),
        (["--max-replicas", "-1"], "--max-replicas is -1; it must be at least --replicas, 1"),
        (["--target-queue-ms", "0"], "--target-queue-ms is 0.0; it must be finite and above 0"),
        (["--target-queue-ms", "nan"], "--target-queue-ms is nan"),
        (["--scale-up-s", "-1"], "--scale-up-s is -1.0; it must be finite, 0 or more"),
        (["--scale-down-s", "inf"], "--scale-down-s is inf; it must be finite, 0 or more"),
    ],
)
def test_a_number_of_replicas_that_cannot_be_is_refused_with_what_can(words: list[str], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        flags.parse(Serve, words, "eagerly serve")


def test_the_number_is_fixed_unless_a_most_above_it_is_named():
    assert not Scaling(replicas=2).is_automatic
    assert not Scaling(replicas=2, max_replicas=2).is_automatic
    assert Scaling(replicas=1, max_replicas=2).is_automatic
