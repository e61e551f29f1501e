import json
from collections.abc import Iterator
from pathlib import Path

import endpoints
import pytest

from eagerly import cli
from eagerly.commands import predict


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with endpoints.serving(list(endpoints.real_models()), tmp_path_factory.mktemp("metrics")) as running:
        yield running.address


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    path.write_bytes(endpoints.real_models()[0].model.examples()[0])
    return path


def test_images_are_shown_as_a_table(address: str, image: Path, capsys: pytest.CaptureFixture[str]):
    assert predict.main(["classifier", str(image), str(image), "--top-k", "2", "--address", address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["input", "label", "score"]
    assert sum(line.startswith(str(image)) for line in lines) == 4
    assert "classifier version 7" in lines[-1]


def test_the_address_comes_from_the_environment(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("EAGERLY_ADDRESS", address)
    predict.main(["sentiment", "What a film!"])
    assert "positive" in capsys.readouterr().out


def test_json_is_for_programs(address: str, capsys: pytest.CaptureFixture[str]):
    predict.main(["sentiment", "What a film!", "Oh no.", "--json", "--address", address])
    results = json.loads(capsys.readouterr().out)
    assert [result["input"] for result in results] == ["What a film!", "Oh no."]
    assert {label["label"] for label in results[0]["labels"]} == {"positive", "negative"}
    assert results[0]["provenance"]["version"] == "7"


def test_books_are_recommended(address: str, capsys: pytest.CaptureFixture[str]):
    user = endpoints.real_models()[2].model.catalogue.user_ids[0]
    predict.main(["recommender", "--user", user, "--k", "3", "--address", address])
    assert len(capsys.readouterr().out.splitlines()) == 2 + 3 + 2


def test_one_bad_text_is_named_and_the_others_are_shown(address: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["predict", "sentiment", "fine", "", "--address", address]) == 2
    shown = capsys.readouterr()
    assert "fine" in shown.out
    assert "texts[1]" in shown.err
    assert len(shown.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["weather"], "unknown service 'weather'"),
        (["classifier"], "no image given"),
        (["classifier", "/no/such.png"], "'/no/such.png' cannot be read"),
        (["sentiment"], "no text given"),
        (["recommender"], "nobody to recommend to"),
        (["recommender", "--user", "nobody"], "unknown user 'nobody'"),
        (["recommender", "--user", "nobody", "--k", "0"], "is 0; it must be 1"),
        (["recommender", "--user", "nobody", "--k", "9999999999"], "--k is 9999999999"),
        (["recommender", "--user", "nobody", "--k", "many"], "--k"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
):
    monkeypatch.setenv("EAGERLY_ADDRESS", address)
    assert cli.main(["predict", *words]) == 2
    complaint = capsys.readouterr().err
    assert says in complaint
    assert len(complaint.splitlines()) == 1


def test_a_server_that_is_down_is_one_sentence_with_the_way_out(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["predict", "sentiment", "hello", "--address", "127.0.0.1:1"]) == 2
    complaint = capsys.readouterr().err
    assert "127.0.0.1:1" in complaint
    assert "`eagerly serve`" in complaint
