"""Who is to blame when a worker group fails, and which budget pays; how a launch's flags say so."""

import json
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus

from pipelines import notices, runs, watch
from pipelines.journal import Journal, Reader, size
from pipelines.loop import Diverged
from pipelines.memory import Exhausted
from pipelines.settings import Launch
from pipelines.stopping import Stopped

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # ray's own settings
DIED = WorkerHealthCheckFailedError("no answer", ActorDiedError())
PEER = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:40000")
STOPPED = Stopped("a node is about to be taken away", 7)
BUG = KeyError("label")
SHORT = Exhausted(4)
REFUSED = Diverged("the loss is nan at step 3")


def status(*errors: Exception) -> WorkerGroupPollStatus:
    return WorkerGroupPollStatus({rank: WorkerStatus(running=False, error=error) for rank, error in enumerate(errors)})


def write(folder: Path, *kinds: str) -> None:
    journal = Journal(folder)
    for kind in kinds:
        journal.append({"event": kind})
    journal.close()


def watching(folder: Path, failures: int = 0, errors: int = 0) -> watch.Watch:
    return watch.Watch({str(folder): 0}, failures, errors, elastic=False)


@pytest.mark.parametrize(
    ("errors", "kind", "blamed"),
    [
        ({0: PEER, 1: DIED}, "loss", DIED),
        ({0: PEER}, "loss", PEER),
        ({0: PEER, 1: BUG}, "error", BUG),
        ({1: REFUSED}, "error", REFUSED),
        ({0: REFUSED, 1: DIED}, "loss", DIED),
        ({0: STOPPED, 1: PEER}, "preemption", STOPPED),
        ({0: PEER, 1: SHORT}, "memory", SHORT),
        ({0: DIED, 1: SHORT}, "loss", DIED),
    ],
)
def test_the_cause_is_blamed_and_not_its_victims(errors: dict[int, Exception], kind: str, blamed: Exception) -> None:
    assert watch.judge(errors) == (kind, blamed)


def test_a_lost_worker_within_the_budget_is_told_and_one_more_ends_the_run(tmp_path: Path) -> None:
    write(tmp_path, "workers")
    within, over = watching(tmp_path, failures=1), watching(tmp_path, failures=0)
    within.after_worker_group_poll_status(status(PEER, DIED))
    with pytest.raises(notices.GivenUp, match="lost 1 time and --max-failures is 0; at last, a worker died"):
        over.after_worker_group_poll_status(status(PEER, DIED))
    told = [(event["event"], event.get("cause"), event.get("count")) for event in Reader(tmp_path).new_events()]
    assert told[1:] == [("restart", "loss", 1), ("lost", "loss", 1)]


def test_an_error_of_the_code_is_raised_at_once_however_many_losses_are_allowed(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="the loss is nan"):
        watching(tmp_path, failures=-1).after_worker_group_poll_status(status(PEER, REFUSED))


def test_an_error_of_the_code_is_tried_again_where_asked_and_leaves_the_other_budget_alone(tmp_path: Path) -> None:
    watching(tmp_path, failures=0, errors=1).after_worker_group_poll_status(status(BUG))
    assert [event["reason"] for event in Reader(tmp_path).new_events()] == ["KeyError: 'label'"]


def test_a_preemption_costs_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        watching(tmp_path).after_worker_group_poll_status(status(STOPPED, PEER))
    assert [event["cause"] for event in Reader(tmp_path).new_events()] == ["preemption"] * 3


def test_a_lack_of_memory_costs_nothing_and_says_how_the_next_start_is_cut(tmp_path: Path) -> None:
    watching(tmp_path).after_worker_group_poll_status(status(PEER, SHORT))
    (event,) = Reader(tmp_path).new_events()
    assert event["cause"] == "memory" and event["reason"].endswith("cuts its micro-batches into 4 pieces")


def test_a_controller_pays_for_what_those_before_it_met_since_the_launch_began(tmp_path: Path) -> None:
    write(tmp_path, "workers")
    runs = {str(tmp_path): 0}
    for cause in ("loss", "loss", "error", "resize"):
        watch.tell(runs, {"event": "restart", "cause": cause, "reason": "", "count": 1})
    assert watch.spent(runs) == {"loss": 2, "error": 1, "resize": 1}
    assert watch.spent({str(tmp_path): size(tmp_path)}) == {}
    with pytest.raises(notices.GivenUp, match="lost 3 times and --max-failures is 2; at last, a worker died"):
        watching(tmp_path, failures=2).after_worker_group_poll_status(status(DIED))
    with pytest.raises(KeyError, match="label"):
        watching(tmp_path, errors=1).after_worker_group_poll_status(status(BUG))
    watching(tmp_path, errors=2).after_worker_group_poll_status(status(BUG))


def test_a_failure_that_is_seen_twice_counts_once(tmp_path: Path) -> None:
    guard = watching(tmp_path, failures=1)
    for _ in range(3):
        guard.after_worker_group_poll_status(status(DIED))
    assert len(list(Reader(tmp_path).new_events())) == 1


def test_what_is_told_goes_into_the_run_that_the_group_is_at_and_nowhere_when_all_have_ended(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    write(first, "workers", "test")
    write(second, "test")  # it ended before, and is continued
    since = {str(first): 0, str(second): size(second)}
    write(second, "workers")
    watch.tell(since, {"event": "restart"})
    assert [[event["event"] for event in Reader(folder).new_events()] for folder in (first, second)] == [
        ["workers", "test"],
        ["test", "workers", "restart"],
    ]
    write(second, "test")
    watch.tell(since, {"event": "restart"})
    assert [event["event"] for event in Reader(second).new_events()][-1] == "test"


def test_workers_are_a_number_or_a_range() -> None:
    assert (Launch(workers=4).fewest, Launch(workers=4).most) == (4, 4)
    assert (Launch(workers="2:4").fewest, Launch(workers="2:4").most) == (2, 4)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"workers": "4:2"}, "--workers is 4:2; the fewest, 4, must not exceed the most, 2"),
        ({"workers": "0:2"}, "--workers is 0:2; the least allowed is 1"),
        ({"workers": "many"}, "--workers is 'many'; it must be a number, or FEWEST:MOST such as 2:4"),
        ({"max_failures": -2}, "--max-failures is -2; it must be 0 or more, or -1 for no limit"),
        ({"max_errors": -2}, "--max-errors is -2"),
        ({"resize_seconds": 0.5}, "--resize-seconds is 0.5; the least allowed is 1"),
        ({"local": True, "workers": "1:2"}, "--local trains in one process; --workers is 1:2"),
    ],
)
def test_flags_out_of_range_are_one_sentence(flags: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Launch(**flags)  # type: ignore[arg-type]


def test_a_run_from_before_these_flags_can_be_resumed(tmp_path: Path) -> None:
    (tmp_path / runs.ABOUT).write_text(json.dumps({"launch": {"workers": 2, "threads": 1}}))
    assert runs.launched(tmp_path) == Launch(workers=2, threads=1)


def test_a_node_that_is_about_to_leave_is_not_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train import ScalingConfig

    policy = watch.Staying(ScalingConfig(num_workers=(2, 4)))
    room = {"stays": {"CPU": 2.0}, "leaves": {"CPU": 2.0}}
    monkeypatch.setattr(watch, "leaving", lambda: {"leaves"})
    assert policy._count_possible_workers(room) == 2
    monkeypatch.setattr(watch, "leaving", set)
    assert policy._count_possible_workers(room) == 4
