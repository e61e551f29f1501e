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


def test_a_model_that_is_too_unsure_is_shown_to_abstain(
    address: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for words in (["sentiment", "fine"], ["classifier", str(image)]):
        assert predict.main([*words, "--min-confidence", "1", "--address", address]) == 0
        head, _, *rows = [line.split() for line in capsys.readouterr().out.split("\n\n")[0].splitlines()]
        assert head == ["input", "label", "score", "model"]
        assert rows and all(row[-1] == "abstains" for row in rows)
        assert predict.main([*words, "--min-confidence", "0", "--address", address]) == 0
        assert "abstains" not in capsys.readouterr().out
    predict.main(["sentiment", "fine", "--min-confidence", "1", "--json", "--address", address])
    assert json.loads(capsys.readouterr().out)[0]["abstained"] is True
    for service, line in (("sentiment", "fine"), ("classifier", str(image))):
        (tmp_path / "one.jsonl").write_text(json.dumps(line))
        words = [service, "--file", str(tmp_path / "one.jsonl"), "--min-confidence", "1", "--address", address]
        assert predict.main(words) == 0
        assert json.loads(capsys.readouterr().out)["abstained"] is True


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
        (["sentiment", "fine", "--min-confidence", "2"], "--min-confidence is 2; it must be 0 to 1"),
        (["classifier", "x.png", "--min-confidence", "nan"], "--min-confidence is nan; it must be 0 to 1"),
        (["recommender", "--user", "1", "--min-confidence", "0.5"], "unrecognized options: --min-confidence"),
        (["recommender"], "nobody to recommend to"),
        (["recommender", "--user", "nobody"], "unknown user 'nobody'"),
        (["recommender", "--user", "nobody", "--k", "0"], "is 0; it must be 1"),
        (["recommender", "--user", "nobody", "--k", "9999999999"], "--k is 9999999999"),
        (["recommender", "--user", "nobody", "--k", "-9999999999"], "--k is -9999999999"),
        (["recommender", "--user", "nobody", "--k", "many"], "--k"),
        (["recommender", "--user", "nob\udcffody"], r"the text 'nob\udcffody' is not UTF-8"),
        (["recommender", "--items", "1", "\udcff"], r"the text '\udcff' is not UTF-8"),
        (["sentiment", "fine", "caf\udce9"], r"the text 'caf\udce9' is not UTF-8"),
        (["classifier", "x.png", "--top-k", "99999999999"], "--top-k is 99999999999; it must be 0"),
        (["classifier", "x.png", "--top-k", "-1"], "--top-k is -1; it must be 0"),
        (["sentiment", "fine", "--timeout-s", "inf"], "--timeout-s is inf; it must be more than 0 seconds"),
        (["sentiment", "fine", "--timeout-s", "nan"], "--timeout-s is nan; it must be more than 0 seconds"),
        (["classifier", "x.png", "--timeout-s", "-1"], "--timeout-s is -1; it must be more than 0 seconds"),
        (["recommender", "--user", "1", "--timeout-s", "0"], "--timeout-s is 0; it must be more than 0 seconds"),
        (["sentiment", "fine", "--output", "results.jsonl"], "--output says how --file is answered"),
        (["classifier", "x.png", "--batch", "8"], "--batch says how --file is answered"),
        (["recommender", "--user", "1", "--concurrency", "2"], "--concurrency says how --file is answered"),
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


def test_a_file_is_answered_line_by_line_in_order(address: str, tmp_path: Path):
    inputs, results = tmp_path / "inputs.jsonl", tmp_path / "results.jsonl"
    lines = ["fine", "", *({"text": f"film {number}"} for number in range(200)), 7]
    inputs.write_text("\n".join(json.dumps(line) for line in lines) + "\n\nnot json\n", encoding="utf-8")
    words = ["predict", "sentiment", "--file", str(inputs), "--output", str(results), "--address", address]
    assert cli.main([*words, "--batch", "16"]) == 2  # three lines are bad, and the others are answered
    told = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    assert [one["line"] for one in told] == [*range(1, 204), 205]
    assert [one["line"] for one in told if "error" in one] == [2, 203, 205]
    assert told[1]["error"]["reason"] == "EMPTY" and "JSON" in told[-1]["error"]["message"]
    assert all(len(one["labels"]) == 2 for one in told if "error" not in one)


def test_files_of_images_and_queries_are_answered(
    address: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    user = endpoints.real_models()[2].model.catalogue.user_ids[0]
    for service, line in (("classifier", {"image": str(image)}), ("recommender", {"user_id": user, "k": 2})):
        (tmp_path / "one.jsonl").write_text(json.dumps(line))
        assert predict.main([service, "--file", str(tmp_path / "one.jsonl"), "--address", address]) == 0
        (told,) = map(json.loads, capsys.readouterr().out.splitlines())
        assert told["line"] == 1 and (told.get("labels") or told.get("items"))


def test_a_query_of_a_file_asks_for_as_many_items_as_it_says_or_else_as_the_flag(address: str, tmp_path: Path):
    user = endpoints.real_models()[2].model.catalogue.user_ids[0]
    lines = [{"user_id": user}, {"user_id": user, "k": 2}]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--file", str(tmp_path / "two.jsonl"), "--output", str(tmp_path / "out"), "--k", "3"]
    assert predict.main(["recommender", *words, "--address", address]) == 0
    told = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert [len(one["items"]) for one in told] == [3, 2]


def test_a_file_whose_name_is_not_utf8_is_shown(address: str, image: Path, capsys: pytest.CaptureFixture[str]):
    odd = image.rename(image.with_name("caf\udce9.png"))
    assert predict.main(["classifier", str(odd), "--address", address]) == 0
    assert r"caf\udce9.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--file", "nowhere.jsonl"], "--file nowhere.jsonl cannot be opened"),
        (["--file", "nowhere.jsonl", "--batch", "0"], "--batch is 0; it must be 1 to 1024"),
        (["--file", "nowhere.jsonl", "--concurrency", "999"], "--concurrency is 999"),
        (["--file", "nowhere.jsonl", "text"], "both on the command line and in --file"),
        (["text", "--ca", "nowhere.pem"], "nowhere.pem cannot be read"),
    ],
)
def test_bad_flags_of_a_file_are_one_sentence(
    address: str, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["predict", "sentiment", *words, "--address", address]) == 2
    assert sentence in capsys.readouterr().err


def test_an_endpoint_that_is_away_ends_a_file_with_how_far_it_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "inputs.jsonl").write_text('"fine"\n' * 100)
    words = ["predict", "sentiment", "--file", str(tmp_path / "inputs.jsonl"), "--address", "127.0.0.1:1"]
    assert cli.main([*words, "--timeout-s", "3"]) == 2
    assert "no endpoint answers at 127.0.0.1:1" in capsys.readouterr().err
