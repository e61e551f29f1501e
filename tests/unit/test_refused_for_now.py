"""A call that is refused for now is made again by the shipped client, once the model is back."""

from collections.abc import Iterator
from pathlib import Path

import endpoints
import pytest
import relays

from benchmarks.frames import DATA
from eagerly.client import CallError, Client
from services import errors


class Leaving(endpoints.Gate):
    """A model that is away for so many calls."""

    away = 0

    def predict(self, texts: list[str]) -> list[object]:
        if self.away and "fine" in texts:
            self.away -= 1
            raise errors.Away("the process that computes the model is starting again")
        return super().predict(texts)


@pytest.fixture
def model() -> Leaving:
    return Leaving()


@pytest.fixture
def relay(model: Leaving, tmp_path: Path) -> Iterator[relays.Relay]:
    with (
        endpoints.serving([endpoints.loaded("sentiment", model)], tmp_path) as running,
        relays.Relay(running.address) as opened,
    ):
        yield opened


def test_the_shipped_client_calls_again(model: Leaving, relay: relays.Relay):
    model.away = 2
    with Client(relay.address) as client:
        assert client.analyze(["fine"])[0].labels[0].label == "fine"
    assert model.away == 0


def test_a_refusal_is_headers_alone_or_no_client_may_call_again(model: Leaving, relay: relays.Relay):
    model.away = 100
    with Client(relay.address) as client, pytest.raises(CallError):
        client.analyze(["fine"])
    assert 100 - model.away == 5, "gRPC's most"
    assert not [frame for frame in relay.lines[0].sent(DATA) if frame.stream != 1]
