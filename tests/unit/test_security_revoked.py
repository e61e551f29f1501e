"""A tokens file that is emptied lets nobody in, unless it was emptied to be written anew."""

import errno
import os
import time
from pathlib import Path

import endpoints
import pytest

from eagerly import cli
from eagerly.client import CallError, Client
from services import tokens, watched
from services.watched import Watched


def outcome(running: endpoints.Endpoint, token: str) -> str:
    """OK, or the code with which a call is refused."""
    with Client(running.address, timeout_s=5, token=token) as client:
        try:
            client.analyze(["fine"])
        except CallError as refused:
            return refused.code
    return "OK"


def becomes(wanted: str, running: endpoints.Endpoint, token: str) -> bool:
    end = time.monotonic() + 10
    while outcome(running, token) != wanted:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("nobody", ["", "\n", "# nobody any more\n"])
def test_the_last_token_is_revoked_as_any_other(tmp_path: Path, caplog: pytest.LogCaptureFixture, nobody: str):
    token, line = tokens.issue("ann", ["*"])
    file = tmp_path / "tokens"
    file.write_text(line)
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with endpoints.serving(models, tmp_path / "metrics", tokens=file) as running:
        assert outcome(running, token) == "OK"
        file.write_text(nobody)
        assert becomes("UNAUTHENTICATED", running, token)
        assert caplog.text.count("nothing is in there now") == 1
        file.write_text(line)
        assert becomes("OK", running, token)
        assert caplog.text.count("nothing is in there now") == 1


def test_a_file_that_is_emptied_to_be_written_anew_holds_until_it_is(tmp_path: Path):
    lines = [tokens.issue(name, ["*"])[1] for name in ("ann", "bob")]
    file = tmp_path / "tokens"
    file.write_text(lines[0])
    watched = Watched({"--tokens": file}, lambda content: tokens.Tokens("--tokens", content))
    file.write_text("")
    assert len(watched.current()) == 1
    file.write_text(lines[0] + lines[1])
    assert len(watched.current()) == 2
    file.write_text("")
    assert [len(watched.current()) for _ in range(3)] == [2, 0, 0]


def test_a_file_that_could_not_be_read_for_a_moment_is_read_again_though_it_did_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(watched, "RETRY_S", 0.05)
    lines = [tokens.issue(name, ["*"])[1] for name in ("ann", "bob")]
    file = tmp_path / "tokens"
    file.write_text(lines[0] + lines[1])
    known = Watched({"--tokens": file}, lambda content: tokens.Tokens("--tokens", content))
    file.write_text(lines[0])
    with monkeypatch.context() as full:

        def refuse(path: Path) -> bytes:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        full.setattr(Path, "read_bytes", refuse)
        for _ in range(3):
            assert len(known.current()) == 2
            time.sleep(0.1)
    assert len(known.current()) == 1
    assert caplog.text.count("cannot be read (Too many open files)") == 1


def test_an_empty_tokens_file_is_refused_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "tokens"
    file.touch()
    assert cli.main(["serve", "--port", "0", "--metrics-port", "0", "--tokens", str(file)]) == 2
    assert f"--tokens {file} is empty" in capsys.readouterr().err
