"""A search space is read from words, and refused with a sentence that says what is allowed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import training

from pipelines import loop, spaces, tasks, trials
from pipelines.journal import Journal, note
from pipelines.place import Place
from pipelines.settings import Launch
from pipelines.spaces import Dimension


@pytest.fixture
def config() -> object:
    return tasks.find("classifier").config.Config()


@pytest.mark.parametrize(
    ("name", "words", "dimension"),
    [
        ("lr", "loguniform(1e-4, 1e-1)", Dimension("loguniform", (1e-4, 1e-1))),
        ("dropout", "uniform(0, 0.5)", Dimension("uniform", (0.0, 0.5))),
        ("batch_size", "choice(32, 64)", Dimension("choice", (32, 64))),
        ("image_size", "int(8, 64)", Dimension("int", (8, 64))),
        ("image_size", " logint( 8,64 ) ", Dimension("logint", (8, 64))),
        ("optimizer", "choice('sgd', 'adam')", Dimension("choice", ("sgd", "adam"))),
        ("augment", "choice(True, False)", Dimension("choice", (True, False))),
        ("schedule", "choice('cosine', 'wsd')", Dimension("choice", ("cosine", "wsd"))),
        ("micro_batch", "choice('auto', 32)", Dimension("choice", ("auto", 32))),
        ("micro_batch", "int(1, 32)", Dimension("int", (1, 32))),
        ("lr", "choice(1, 0.5)", Dimension("choice", (1, 0.5))),
    ],
)
def test_words_become_dimensions(name: str, words: str, dimension: Dimension, config: object) -> None:
    assert spaces.parse({name: words}, config) == {name: dimension}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        ("warmth", "uniform(0, 1)", r"names 'warmth', which is no setting to be tuned: .*batch_size, lr, "),
        ("epochs", "int(1, 8)", r"names 'epochs', which is no setting to be tuned"),
        ("data", "choice('a', 'b')", r"names 'data', which is no setting to be tuned"),
        ("lr", "normal(0, 1)", r"lr is 'normal\(0, 1\)' in the search space; write one of uniform\(0, 1\), "),
        ("lr", "uniform(0, __import__('os'))", r"lr is .* in the search space; write one of"),
        ("lr", "loguniform(0, 1)", r"loguniform takes a lower and a higher number above 0"),
        ("lr", "uniform(1)", r"uniform takes a lower and a higher number"),
        ("dropout", "uniform(0, 1.5)", r"holds dropout = 1\.5: --dropout is 1\.5; it must be at least 0 and below 1"),
        (
            "batch_size",
            "uniform(8, 64)",
            r"batch_size is 8\.0 in the search space; the setting is a whole number, such as 128",
        ),
        ("batch_size", "choice(True)", r"batch_size is True in the search space; the setting is a whole number"),
        ("augment", "choice(0, 1)", r"augment is 0 in the search space; the setting is True or False, such as True"),
        (
            "schedule",
            "choice('cosine', 'linear')",
            r"schedule is 'linear' in the search space; the setting is 'constant' or 'onecycle' or 'cosine' or 'wsd'",
        ),
        (
            "micro_batch",
            "choice('most')",
            r"micro_batch is 'most' .*; the setting is 'auto' or a whole number, such as",
        ),
        ("image_size", f"int(8, 1{'0' * 400})", r"int takes a lower and a higher number, at most 2\*\*53"),
        ("lr", f"uniform(0, 1{'0' * 400})", r"uniform takes a lower and a higher number"),
        ("lr", f"choice(1{'0' * 400})", r"lr is 10*0 in the search space; the setting is a finite number, such as"),
        ("batch_size", "choice()", r"batch_size is 'choice\(\)' in the search space; write one of"),
    ],
)
def test_what_cannot_be_searched_is_a_sentence(name: str, words: str, sentence: str, config: object) -> None:
    with pytest.raises(ValueError, match=sentence):
        spaces.parse({name: words}, config)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", tasks.TASKS)
def test_every_task_s_own_space_fits_its_settings(name: str) -> None:
    module = tasks.find(name).config
    assert "lr" in spaces.parse(spaces.of(module, module.Config()), module.Config())


def test_a_file_and_the_flag_replace_the_task_s_own_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.json").write_text(json.dumps({"lr": "uniform(0.1, 0.2)", "dropout": "uniform(0, 0.1)"}))
    search = trials.Search(space="space.json", set=("batch-size=choice(32, 64)", "lr=uniform(0.3, 0.4)"))
    tuning = trials.create("classifier", tasks.find("classifier").config.Config(), Launch(), search)
    assert set(tuning.space) == {"lr", "dropout", "batch_size"}
    assert tuning.space["lr"].values == (0.3, 0.4)
    assert trials.reopen(tuning.folder) == tuning


@pytest.mark.parametrize("text", ["[]", "{", '{"lr": 3}'])
def test_a_file_that_is_no_space_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "space.json").write_text(text)
    with pytest.raises(ValueError, match=r"--space '.*space\.json' "):
        spaces.read(tmp_path / "space.json")


def test_a_space_that_names_no_field_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tasks.find("classifier").config.Config()
    for word in ("warmth=uniform(0, 1)", "lr"):
        with pytest.raises(ValueError, match=r"warmth|'lr' is not NAME=WORDS"):
            trials.create("classifier", config, Launch(), trials.Search(set=(word,)))
    assert not (tmp_path / "runs").exists()


def test_the_best_is_the_best_of_the_trials_that_came_to_their_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    ends = [("stopped", 0.9, 1), ("finished", 0.7, 8), ("finished", 0.8, 8), ("failed", float("-inf"), 0)]
    ends += [("finished", float("nan"), 8), ("finished", float("inf"), 8)]
    for number, (state, value, epochs) in enumerate(ends):
        journal.append({"event": "trial", "number": number, "values": {"lr": number}})
        journal.append({"event": "done", "number": number, "state": state, "value": value, "epochs": epochs})
    journal.close()
    assert trials.best(tmp_path).values == {"lr": 2}


@pytest.mark.parametrize(
    ("states", "why"),
    [
        (("failed", "failed"), "the loss is nan at step 3"),
        (("stopped", "failed"), "KeyError: 'label'"),
        (("stopped", "stopped"), "all were stopped"),
        (("failed",), "the loss is nan at step 3"),
    ],
)
def test_a_search_of_which_no_trial_came_to_its_end_says_why(tmp_path: Path, states: tuple[str, ...], why: str) -> None:
    journal = Journal(tmp_path)
    for number, (state, sentence) in enumerate(
        zip(states, ("the loss is nan at step 3", "KeyError: 'label'"), strict=False)
    ):
        note(trials.place(tmp_path, number), {"event": "error", "sentence": sentence})
        journal.append({"event": "trial", "number": number, "values": {"lr": 9.0}})
        journal.append({"event": "done", "number": number, "state": state, "value": 0.0, "epochs": 0})
    journal.close()
    with pytest.raises(ValueError, match=f"no trial of {len(states)} came to its end; {why}"):
        trials.best(tmp_path)


def test_a_search_goes_on_with_other_code_or_data_only_if_asked_to(tmp_path: Path) -> None:
    config = tasks.find("classifier").config.Config()
    made = trials.create("classifier", config, Launch(run_dir=str(tmp_path / "tune")), trials.Search())
    trials.settle(made, "code", "data")
    trials.settle(trials.reopen(made.folder), "code", "data")
    with pytest.raises(ValueError, match=r"tune' were judged by other code, .* new search, or add --resume-anyway"):
        trials.settle(made, "changed", "data")
    with pytest.raises(ValueError, match="were judged by other code and by other data"):
        trials.settle(made, "changed", "changed")
    trials.settle(replace(made, anyway=True), "changed", "data")
    trials.settle(made, "changed", "data")


def test_a_folder_without_a_search_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no search: there is no tune\.json in it"):
        trials.reopen(tmp_path)


def test_a_trial_never_reads_the_test_split(tmp_path: Path) -> None:
    task = tasks.find("classifier")
    config = task.config.Config(epochs=1, arch="article", batch_size=256)
    kept = training.counted(task.data.load(config))
    assert loop.run(task, config, tmp_path, Place(), data=kept, test=False) == {}
    read = training.reads(kept)
    assert read["test"] == [] and len(read["valid"]) > 0 < len(read["train"])
    assert not (tmp_path / "artifact").exists()
