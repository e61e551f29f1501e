"""A RAY_ADDRESS at which no cluster answers is one sentence, soon."""

import socket
from pathlib import Path

import pytest
from training import REGRESSION

from eagerly.cli import main


@pytest.mark.parametrize("line", [f"train {REGRESSION}", f"tune {REGRESSION} --set lr=uniform(0.1,0.2)"])
def test_an_address_at_which_nothing_listens_is_one_sentence(
    line: str,
    tracking_store: Path,
    without_ray: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert main(line.split()) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"eagerly: no cluster answers at RAY_ADDRESS={address} (")
    assert said.endswith("; name one that runs, or unset RAY_ADDRESS to train on this machine alone")
