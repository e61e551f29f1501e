"""A RAY_ADDRESS at which no cluster answers is one sentence, soon."""

import socket
from pathlib import Path

import pytest
from training import REGRESSION

from eagerly.cli import main
from eagerly.commands.serve import Serve, serving


@pytest.fixture
def address(without_ray: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """A RAY_ADDRESS at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        found = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", found)
    return found


@pytest.mark.parametrize("line", [f"train {REGRESSION}", f"tune {REGRESSION} --set lr=uniform(0.1,0.2)"])
def test_an_address_at_which_nothing_listens_is_one_sentence(
    line: str, tracking_store: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"eagerly: no cluster answers at RAY_ADDRESS={address} (")
    assert said.endswith("; name one that runs, or unset RAY_ADDRESS to train on this machine alone")


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")  # ray.serve's own
def test_an_endpoint_is_refused_where_nothing_listens(address: str) -> None:
    with (
        pytest.raises(ValueError, match=rf"^no cluster answers at RAY_ADDRESS={address} \(") as refused,
        serving(Serve(port=0, metrics_port=0), []),
    ):
        pass
    assert str(refused.value).endswith("; name one that runs, or unset RAY_ADDRESS to serve on this machine alone")
