"""Connections that stay are ended at an age, so that they spread over replicas, and no call notices."""

import concurrent.futures
import time
from pathlib import Path
from typing import Any

import endpoints
import registries
import relays

from benchmarks.frames import DATA
from eagerly.client import Client

AGE_S = 0.3
NO_ERROR = bytes(4)


def sentiment(model: Any) -> list[Any]:
    return [endpoints.loaded("sentiment", model)]


def called(client: Client, seconds: float) -> list[str]:
    """What calls one after the other for so many seconds are answered."""
    until, answers = time.monotonic() + seconds, []
    while time.monotonic() < until:
        (labels,) = client.analyze([f"call {len(answers)}"])
        answers.append(labels.error or labels.labels[0].label)
    return answers


def test_a_connection_is_asked_to_end_at_its_age_and_no_call_fails(tmp_path: Path):
    with (
        endpoints.serving(sentiment(endpoints.Gate()), tmp_path, max_connection_age_s=AGE_S) as running,
        relays.Relay(running.address) as relay,
        Client(relay.address) as client,
    ):
        answers = called(client, 2)
        past = relay.lines[:-1]
        assert all(line.ended.wait(5) for line in past), "old connections stay"
    assert answers == [f"call {number}" for number in range(len(answers))]
    assert 3 <= len(past) <= 8
    for line in past:
        first, *_, last = line.sent(relays.GOAWAY)
        assert (first.payload[4:8], first.payload[8:]) == (NO_ERROR, b"max_age")
        assert last.payload[4:8] == NO_ERROR
        assert first.at_s - line.began_s > 0.8 * AGE_S


def test_connections_stay_where_there_is_no_age(tmp_path: Path):
    with (
        endpoints.serving(sentiment(endpoints.Gate()), tmp_path, max_connection_age_s=0) as running,
        relays.Relay(running.address) as relay,
        Client(relay.address) as client,
    ):
        called(client, 3 * AGE_S)
        (line,) = relay.lines
        assert not line.sent(relays.GOAWAY)


def test_a_call_that_takes_longer_than_the_age_is_answered_however_short_the_drain_is(tmp_path: Path):
    model = endpoints.Gate()
    with (
        endpoints.serving(sentiment(model), tmp_path, max_connection_age_s=AGE_S, drain_s=0) as running,
        relays.Relay(running.address) as relay,
        Client(relay.address) as client,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        model.computing.clear()
        model.open.clear()
        held = pool.submit(client.analyze, ["held"])
        assert model.computing.wait(5)
        line = relay.lines[0]
        assert registries.eventually(lambda: line.sent(relays.GOAWAY), 5)
        time.sleep(AGE_S)
        model.open.set()
        assert held.result(10)[0].labels[0].label == "held"
        assert line.sent(DATA)[-1].at_s - line.sent(relays.GOAWAY)[0].at_s >= AGE_S
    assert model.computed.count("held") == 1


def test_one_connection_that_stays_reaches_every_replica_on_its_port(tmp_path: Path):
    one, other = endpoints.Gate(), endpoints.Gate()
    (tmp_path / "other").mkdir()
    with (
        endpoints.serving(sentiment(one), tmp_path, max_connection_age_s=0.1) as running,
        endpoints.serving(
            sentiment(other), tmp_path / "other", max_connection_age_s=0.1, port=running.server.port
        ) as beside,
        Client(running.address) as client,
    ):
        assert beside.address == running.address
        answers: list[str] = []
        assert registries.eventually(
            lambda: answers.extend(called(client, 0.2)) or {"call 0"} & {*one.computed} & {*other.computed}, 15
        )
    assert not [answer for answer in answers if not answer.startswith("call ")]
