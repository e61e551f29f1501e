"""A pretrained encoder under a head, tried with a tiny one of random weights, without network access."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipelines import loop, tasks
from pipelines.place import Place
from pipelines.sentiment.config import Config
from pipelines.sentiment.model import Model, Prediction
from pipelines.sentiment.reading import alike
from services import rewrites

TEXTS = ["a good day", "bad", "good bad good bad good bad good bad good bad"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it: BERT of one layer, with a tokenizer of a few words."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "a", "day", "text", "is", "number"]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        max_position_embeddings=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a model that learned to tell good from bad on top of the tiny encoder."""
    folder = tmp_path_factory.mktemp("run")
    rows = "".join(f"text number {number} is {word},{word}\n" for number in range(40) for word in ("good", "bad"))
    (folder / "a.csv").write_text("text,label\n" + rows)
    config = Config(data=str(folder / "a.csv"), encoder=str(encoder), epochs=10, lr=1e-2)
    metrics = loop.run(tasks.find("sentiment"), config, folder / "run", Place())
    assert metrics["accuracy"] == 1.0
    return folder / "run" / "artifact"


def test_the_artifact_is_all_that_prediction_needs(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "elsewhere")
    good, bad, _ = Model.load(tmp_path / "elsewhere").predict(TEXTS)
    assert isinstance(good, Prediction) and isinstance(bad, Prediction)
    assert (good.labels[0][0], bad.labels[0][0]) == ("good", "bad")


def test_a_prediction_does_not_depend_on_the_batch_it_is_in(trained: Path) -> None:
    model = Model.load(trained)
    for text, together in zip(TEXTS, model.predict(TEXTS), strict=True):
        (alone,) = model.predict([text])
        assert isinstance(alone, Prediction) and isinstance(together, Prediction)
        assert dict(alone.labels) == pytest.approx(dict(together.labels), abs=1e-5)


def test_a_long_batch_of_short_and_long_texts_is_answered_in_its_order(trained: Path) -> None:
    model = Model.load(trained)
    texts = [*TEXTS, "bad", "a", "good good good"] * 12
    assert len(alike(model.reader.read(texts).lengths)) > 1
    for text, found in zip(texts, model.predict(texts), strict=True):
        (alone,) = model.predict([text])
        assert isinstance(found, Prediction) and isinstance(alone, Prediction)
        assert dict(found.labels) == pytest.approx(dict(alone.labels), abs=1e-6)


def test_texts_are_grouped_by_length_where_that_saves_padding() -> None:
    lengths = torch.tensor([3, 100, 4, 90, 3, 101])
    groups = [sorted(group.tolist()) for group in alike(lengths)]
    assert sorted(groups) == [[0, 2, 4], [1, 3, 5]]
    assert [group.tolist() for group in alike(torch.tensor([7]))] == [[0]]
    assert len(alike(torch.tensor([10, 11] * 20))) == 1


def test_the_artifact_does_not_say_where_the_encoder_lay(trained: Path, encoder: Path) -> None:
    assert str(encoder) not in (trained / "config.json").read_text()


def test_a_text_longer_than_the_encoder_takes_is_read_by_its_beginning(trained: Path) -> None:
    model = Model.load(trained)
    short, long = model.predict(["bad " * 6, "bad " * 6 + "good " * 100])
    assert isinstance(short, Prediction) and isinstance(long, Prediction)
    assert dict(short.labels) == pytest.approx(dict(long.labels), abs=1e-6)


def test_an_encoder_that_holds_only_a_pickle_is_refused(encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights such as pytorch_model\.bin are refused"):
        start(tmp_path / "pickled", tmp_path)


def test_a_recorded_encoder_answers_texts_of_every_length_as_it_does_itself(trained: Path) -> None:
    model = Model.load(trained)
    recorded = rewrites.traced(model.network)
    assert recorded is not None and recorded.get_parameter("head.weight") is model.network.get_parameter("head.weight")
    with torch.inference_mode():
        for texts in (TEXTS, TEXTS[:1], TEXTS[2:], [*TEXTS, "day"] * 5, ["good"]):
            inputs = model.reader.read(texts).batch(torch.arange(len(texts)))
            torch.testing.assert_close(recorded(*inputs), model.network(*inputs))


def test_an_encoder_with_corrupt_weights_is_refused(encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder, tmp_path / "corrupt")
    (tmp_path / "corrupt" / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="corrupt' cannot be loaded"):
        start(tmp_path / "corrupt", tmp_path)


def test_a_folder_that_is_no_encoder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"it must be a folder with config\.json") as caught:
        start(tmp_path / "empty", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def bare_process(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a process without network prints: the heavy modules it loaded, then why a name was refused."""
    code = (
        "import sys, pipelines.sentiment.model\n"
        "print({'transformers', 'pyarrow', 'sklearn'} & set(sys.modules))\n"
        "try: pipelines.sentiment.model.encoder.tokenizer('nobody/has-this', 8)\n"
        "except ValueError as problem: print(problem)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("hub"))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_path_from_scratch_loads_neither_transformers_nor_pyarrow(bare_process: list[str]) -> None:
    assert bare_process[0] == "set()"


def test_a_name_that_cannot_be_downloaded_is_refused_in_one_sentence(bare_process: list[str]) -> None:
    _, *sentences = bare_process
    assert len(sentences) == 1 and "--encoder 'nobody/has-this' cannot be loaded" in sentences[0]


def start(encoder: Path, folder: Path) -> None:
    """Makes an untrained model on top of an encoder."""
    (folder / "a.csv").write_text("text,label\n" + "".join(f"text {number},{number % 2}\n" for number in range(20)))
    config = Config(data=str(folder / "a.csv"), encoder=str(encoder))
    task = tasks.find("sentiment")
    task.model.Model.create(config, task.data.load(config))
