"""The classifier's model: what it makes of images, and that a saved one is the same one."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines.classifier import data, networks, train
from pipelines.classifier.config import Config
from pipelines.classifier.model import Description, Model, Prediction


@pytest.fixture(scope="module")
def digits() -> data.ImageData:
    return data.load(Config())


@pytest.fixture
def model(digits: data.ImageData) -> Model:
    torch.manual_seed(0)
    return Model.create(Config(), digits)


def scores(prediction: Prediction | ValueError) -> dict[str, float]:
    assert isinstance(prediction, Prediction)
    return dict(prediction.labels)


def encode(picture: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def random_pixels(count: int, shape: tuple[int, ...] = (8, 8)) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8))


def test_every_class_is_ranked_best_first(model: Model) -> None:
    (prediction,) = model.predict(random_pixels(1))
    assert isinstance(prediction, Prediction)
    values = [score for _, score in prediction.labels]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1)
    assert sorted(label for label, _ in prediction.labels) == [str(digit) for digit in range(10)]


def test_a_saved_model_predicts_the_same(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert loaded.predict(loaded.examples()) == model.predict(model.examples())
    assert loaded.expected == model.expected


def test_a_saved_model_has_no_other_kinds_of_files(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "examples.safetensors"}


def test_two_examples_are_of_the_models_own_classes(model: Model) -> None:
    assert [isinstance(one, Prediction) for one in model.predict(model.examples())] == [True, True]
    assert set(model.expected) <= {str(digit) for digit in range(10)}


def test_a_prediction_does_not_depend_on_its_batch(model: Model) -> None:
    model.network.train()
    inputs = random_pixels(33)
    together = [scores(one) for one in model.predict(inputs)]
    for image, expected in zip(inputs, together, strict=True):
        assert scores(model.predict([image])[0]) == pytest.approx(expected, abs=1e-5)


def test_a_png_file_and_its_pixels_are_the_same_image(model: Model) -> None:
    (pixels,) = random_pixels(1)
    file, plain, deep = model.predict([encode(Image.fromarray(pixels)), pixels, pixels[:, :, None]])
    assert file == plain == deep


def test_a_file_is_brought_to_the_models_size_and_colours(model: Model) -> None:
    picture = Image.effect_noise((64, 48), 80)
    forms = [encode(picture), encode(picture.convert("RGB")), encode(picture.convert("RGB"), "JPEG")]
    grey, colour, jpeg = (scores(one) for one in model.predict(forms))
    assert grey == colour
    assert jpeg == pytest.approx(grey, abs=0.05)


def test_sixteen_bit_and_transparent_pictures_are_understood(model: Model) -> None:
    (pixels,) = random_pixels(1)
    deep = Image.fromarray(pixels.astype(np.uint16) * 257)
    clear = Image.merge("LA", (Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 0)))
    white = Image.new("L", (8, 8), 255)
    predictions = model.predict([encode(deep), pixels, encode(clear), encode(white)])
    assert predictions[0] == predictions[1]
    assert predictions[2] == predictions[3]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"", "0 bytes are not a readable PNG or JPEG"),
        (b"not an image", "12 bytes are not a readable PNG or JPEG"),
        (encode(Image.effect_noise((64, 64), 80))[:2000], "2000 bytes are not a readable"),
        (encode(Image.new("L", (9, 9)), "BMP"), "not a readable PNG or JPEG"),
        (encode(Image.new("1", (4001, 4000))), "16,004,000 pixels; at most 16,000,000"),
        (encode(Image.new("1", (14_000, 14_000))), "196,000,000 pixels; at most 16,000,000"),
        (np.zeros((9, 8), np.uint8), r"\(9, 8\); this model takes \(8, 8, 1\) or \(8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), r"\(8, 8, 3\); this model takes"),
        (np.full((8, 8), np.nan), "an array of float64; it must be"),
        ("digit.png", "a str; it must be bytes"),
    ],
)
def test_a_bad_image_gets_its_own_error_and_harms_no_other(model: Model, bad: object, message: str) -> None:
    (good,) = random_pixels(1)
    before, error, after = model.predict([good, bad, good])
    assert before == after
    with pytest.raises(ValueError, match=message):
        raise error  # type: ignore[misc]


def test_no_images_give_no_predictions(model: Model) -> None:
    assert model.predict([]) == []


def test_a_model_of_colours_takes_pixels_of_three(digits: data.ImageData) -> None:
    network = networks.build("convnet", (3, 16, 20), 10, 0.0)
    description = Description("convnet", digits.labels, [3, 16, 20], 0.0, [])
    colours = Model(description, network, torch.zeros(2, 3, 16, 20, dtype=torch.uint8))
    pixels, grey = random_pixels(1, (16, 20, 3))[0], np.zeros((16, 20), np.uint8)
    whole, error = colours.predict([pixels, grey])
    assert isinstance(whole, Prediction)
    with pytest.raises(ValueError, match=r"\(16, 20\); this model takes \(16, 20, 3\)"):
        raise error  # type: ignore[misc]


def test_the_articles_net_runs_on_28x28() -> None:
    network = networks.article((1, 28, 28), 10)
    assert network(torch.zeros(5, 1, 28, 28)).shape == (5, 10)
    assert network[4].in_features == 32 * 14 * 14  # type: ignore[index]


@pytest.mark.parametrize("arch", ["convnet", "article"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 45, 61)])
def test_the_small_nets_take_any_size(arch: str, shape: tuple[int, int, int]) -> None:
    assert networks.build(arch, shape, 4, 0.1)(torch.zeros(2, *shape, dtype=torch.uint8)).shape == (2, 4)


@pytest.mark.parametrize("arch", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_backbone_takes_grey_images_and_starts_from_a_file(arch: str, digits: data.ImageData, tmp_path: Path) -> None:
    small = data.load(Config(image_size=32))
    first = Model.create(Config(arch=arch), small)
    first.save(tmp_path)
    second = Model.create(Config(arch=arch, pretrained=str(tmp_path / "model.safetensors")), small)
    assert first.predict(first.examples()) == second.predict(first.examples())


def test_weights_of_other_classes_leave_the_last_layer_new(digits: data.ImageData, tmp_path: Path) -> None:
    body = networks.build("resnet18", (3, 32, 32), 7, 0.0).body
    save_file(body.state_dict(), tmp_path / "seven.safetensors")
    model = Model.create(Config(arch="resnet18", pretrained=str(tmp_path / "seven.safetensors")), digits)
    assert torch.equal(model.network.body.conv1.weight, body.conv1.weight)  # type: ignore[union-attr,arg-type]
    assert model.network.body.fc.out_features == 10  # type: ignore[union-attr]


def test_weights_of_another_network_are_refused(model: Model, digits: data.ImageData, tmp_path: Path) -> None:
    model.save(tmp_path)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"does not fit --arch resnet18: .* is missing, unknown or of another shape"):
        Model.create(Config(arch="resnet18", pretrained=str(path)), digits)


def test_weights_that_are_no_safetensors_file_are_refused(digits: data.ImageData, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(ValueError, match=r"weights.pth' is not a readable safetensors file"):
        Model.create(Config(arch="resnet18", pretrained=str(path)), digits)
    with pytest.raises(ValueError, match=r"absent' is not a readable safetensors file"):
        Model.create(Config(arch="resnet18", pretrained=str(tmp_path / "absent")), digits)


def test_weights_that_cannot_be_downloaded_are_one_sentence(
    digits: data.ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens on the discard port
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"weights for resnet18 could not be downloaded .* --pretrained$"):
        Model.create(Config(arch="resnet18", pretrained="default"), digits)


def test_an_unknown_arch_says_what_there_is(digits: data.ImageData) -> None:
    with pytest.raises(ValueError, match=r"unknown --arch 'resnet19': .* such as resnet1"):
        Model.create(Config(arch="resnet19"), digits)


def test_saved_weights_hold_the_normalisation(model: Model, digits: data.ImageData, tmp_path: Path) -> None:
    model.save(tmp_path)
    pixels = digits.train.batch(torch.arange(len(digits.train)), None).images.double()
    state = load_file(tmp_path / "model.safetensors")
    assert float(state["mean"]) == pytest.approx(float(pixels.mean()), rel=1e-5)
    assert float(state["std"]) == pytest.approx(float(pixels.std(correction=0)), rel=1e-5)


def test_metrics_of_summed_batches_are_those_of_the_whole(model: Model, digits: data.ImageData) -> None:
    model.network.eval()
    index_N = torch.arange(len(digits.test))
    whole = train.measure(model.network, digits.test.batch(index_N, None))
    parts = [train.measure(model.network, digits.test.batch(part, None)) for part in index_N.split(50)]
    summed = {name: torch.stack([part[name] for part in parts]).sum(0) for name in whole}
    assert train.metrics(summed) == pytest.approx(train.metrics(whole))


def test_metrics_equal_scikit_learns() -> None:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    generator = torch.Generator().manual_seed(0)
    logits_BK = torch.randn(200, 4, generator=generator)
    targets_B = torch.randint(0, 4, (200,), generator=generator)
    batch = data.Batch(logits_BK, targets_B, smoothing=0.1)
    found = train.metrics(train.measure(torch.nn.Identity(), batch))
    assert found["accuracy"] == pytest.approx(accuracy_score(targets_B, logits_BK.argmax(1)))
    assert found["macro_f1"] == pytest.approx(f1_score(targets_B, logits_BK.argmax(1), average="macro"))
    assert found["loss"] == pytest.approx(log_loss(targets_B, logits_BK.double().softmax(1)))


def test_a_sure_and_right_classifier_has_no_calibration_error() -> None:
    batch = data.Batch(torch.eye(4) * 100, torch.arange(4), smoothing=0.0)
    sums = train.measure(torch.nn.Identity(), batch)
    assert sums["reliability"][-1].tolist() == [4, 4, 4]
    assert train.metrics(sums)["ece"] == pytest.approx(0)
