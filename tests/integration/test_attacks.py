"""Attacks on the port: the server answers afterwards, and gets back what they took."""

import threading
from collections.abc import Iterator

import pytest

from benchmarks.assaults import Assault, assaults
from benchmarks.attacks import MOST_GROWTH_MB, MOST_LEFT, Held, recovered
from benchmarks.target import SIDE, Target, running
from eagerly.client import Client, Raw


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """A server that has been attacked once, so that what it keeps for good is there."""
    with running(models=["classifier"]) as server:
        for assault in assaults(0.02):
            assault.run(server.address, 0.2, threading.Event())
        yield server


@pytest.mark.parametrize("assault", [*assaults(0.2)], ids=lambda assault: assault.name)
def test_an_attack_is_survived_and_leaves_nothing_behind(target: Target, assault: Assault):
    before = Held.by(target.pid)
    sent, _ = assault.run(target.address, 1.0, threading.Event())
    assert sent > 0
    with Client(target.address) as client:
        assert not client.classify([Raw(bytes(SIDE * SIDE), (SIDE, SIDE))])[0].error
    after = recovered(target.pid, before)
    assert after.rss_mb - before.rss_mb < MOST_GROWTH_MB
    assert max(after.descriptors - before.descriptors, after.threads - before.threads) <= MOST_LEFT


def test_an_attacker_cannot_fill_the_log(capfd: pytest.CaptureFixture[str]):
    bombs = next(assault for assault in assaults(0.2) if assault.name == "gzip bombs")
    with running(models=["classifier"]) as server:
        capfd.readouterr()
        sent, _ = bombs.run(server.address, 1.0, threading.Event())
    assert sent > 0
    assert capfd.readouterr().err == ""
