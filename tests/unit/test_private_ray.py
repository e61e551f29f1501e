"""What a Ray of our own is started with, so that it is for this user alone."""

from pathlib import Path

import pytest

from pipelines import cluster


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_it_listens_on_loopback_and_has_a_token_that_this_user_alone_can_read(home: Path) -> None:
    variables, token = cluster.private({})
    assert Path(token).parent == home
    assert variables == {cluster.LOOPBACK: "0", "RAY_AUTH_TOKEN_PATH": token}
    assert Path(token).stat().st_mode & 0o777 == 0o600
    assert len(Path(token).read_text()) == 64


def test_the_token_stays_for_the_next_one() -> None:
    _, token = cluster.private({})
    before = Path(token).read_text()
    assert cluster.private({})[1] == token
    assert Path(token).read_text() == before


@pytest.mark.parametrize("said", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "mine"}])
def test_no_token_is_made_where_the_environment_brings_one_or_wants_none(home: Path, said: dict[str, str]) -> None:
    assert cluster.private(said) == ({cluster.LOOPBACK: "0"}, "")
    assert not home.exists()


def test_the_environment_may_name_the_tokens_file_and_open_ray_to_other_machines(tmp_path: Path) -> None:
    named = str(tmp_path / "shared" / "token")
    variables, token = cluster.private({"RAY_AUTH_TOKEN_PATH": named, cluster.LOOPBACK: "1"})
    assert (variables[cluster.LOOPBACK], variables["RAY_AUTH_TOKEN_PATH"], token) == ("1", named, named)
    assert Path(named).exists()
