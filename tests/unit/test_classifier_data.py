"""Where the classifier's images come from, and what is said of those that cannot be used."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.classifier import data, sources
from pipelines.classifier.config import Config
from pipelines.examples import Draw, Split


def write_idx(path: Path, array: np.ndarray) -> None:
    content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_set(folder: Path, suffix: str) -> None:
    for part, count in (("train", 60), ("t10k", 20)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count, dtype=np.uint8) % 10)


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new(mode, size, number).save(folder / f"{number:02}.png")


def whole(split: Split) -> data.Batch:
    return split.batch(torch.arange(len(split)), None)


def rows(split: Split) -> list[bytes]:
    return [image.numpy().tobytes() for image in whole(split).images]


def test_digits_are_scaled_to_bytes_and_split_by_class() -> None:
    found = data.load(Config())
    assert (len(found.train), len(found.valid), len(found.test)) == (1433, 181, 183)
    assert found.shape == (1, 8, 8)
    images = whole(found.train).images
    assert (images.dtype, int(images.min()), int(images.max())) == (torch.uint8, 0, 255)
    assert whole(found.test).targets.bincount().min() >= 17


def test_splits_are_fixed_by_the_seed() -> None:
    first, again, other = (data.load(Config(seed=seed)) for seed in (0, 0, 1))
    assert rows(first.test) == rows(again.test)
    assert rows(first.test) != rows(other.test)
    assert first.digest == again.digest == other.digest


@pytest.mark.parametrize("layout", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_found_plain_or_zipped_and_keep_their_own_test_split(
    tmp_path: Path, layout: str, suffix: str
) -> None:
    write_set(tmp_path / layout, suffix)
    found = data.load(Config(dataset="mnist", data_dir=str(tmp_path)))
    assert (len(found.train), len(found.valid), len(found.test)) == (54, 6, 20)
    expected = sources.read_idx(tmp_path / layout / f"t10k-images-idx3-ubyte{suffix}", 3)
    assert rows(found.test) == [image.tobytes() for image in expected]


def test_image_size_resizes_a_built_in_set() -> None:
    assert data.load(Config(image_size=16)).shape == (1, 16, 16)


def test_a_cut_idx_file_is_named(tmp_path: Path) -> None:
    write_set(tmp_path, "")
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte' holds 15679 bytes where its header says 15680"):
        data.load(Config(dataset="mnist", data_dir=str(tmp_path)))


def test_a_damaged_gz_file_is_named(tmp_path: Path) -> None:
    write_set(tmp_path, ".gz")
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz' cannot be read .*; download it again"):
        data.load(Config(dataset="mnist", data_dir=str(tmp_path)))


def test_an_idx_label_out_of_range_is_named(tmp_path: Path) -> None:
    write_set(tmp_path, "")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.full(20, 10, np.uint8))
    with pytest.raises(ValueError, match="holds the label 10; 0 to 9 are known"):
        data.load(Config(dataset="mnist", data_dir=str(tmp_path)))


def test_a_set_with_a_missing_file_says_which(tmp_path: Path) -> None:
    write_set(tmp_path, "")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="lacks t10k-images-idx3-ubyte or t10k-labels-idx1-ubyte"):
        data.load(Config(dataset="mnist", data_dir=str(tmp_path)))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_failed_download_is_one_sentence_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies of its first use, for all tests to come
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens on the discard port
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=rf"^{name} is not in .* and could not be downloaded .*--data-dir$"):
        sources.built_in(name, "")


def test_data_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; name the folder that holds mnist's files"):
        data.load(Config(dataset="mnist", data_dir=str(tmp_path / "file")))


def test_a_folder_of_pictures_is_read_by_class(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_pictures(tmp_path / name, 10)
    found = data.load(Config(data=str(tmp_path)))
    assert found.labels == ["cat", "dog"]
    assert found.shape == (3, 10, 12)
    assert [len(whole(split).targets.unique()) for split in (found.train, found.valid, found.test)] == [2, 2, 2]


@pytest.mark.parametrize("stream", [False, True])
def test_copies_of_one_picture_in_training_and_test_are_warned_of(
    tmp_path: Path, stream: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    pictures = tmp_path / "pictures"
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 12, 10), dtype=np.uint8)):
        place = pictures / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    data.load(Config(data=str(pictures), stream=stream))
    assert not caplog.text
    for path in [*pictures.rglob("*.png")]:
        for number in range(3):
            path.with_stem(f"{path.stem}-copy-{number}").write_bytes(path.read_bytes())
    found = data.load(Config(data=str(pictures), stream=stream))
    assert (
        f"of the {len(found.test)} images that test the model are copies of images that it learns from" in caplog.text
    )


def test_grey_pictures_stay_grey_unless_one_has_colours(tmp_path: Path) -> None:
    write_pictures(tmp_path / "cat", 3, mode="L")
    write_pictures(tmp_path / "dog", 3, mode="L")
    assert data.load(Config(data=str(tmp_path))).shape[0] == 1
    write_pictures(tmp_path / "fox", 3, mode="RGB")
    assert data.load(Config(data=str(tmp_path))).shape[0] == 3


def test_pictures_of_mixed_sizes_need_an_image_size(tmp_path: Path) -> None:
    write_pictures(tmp_path / "cat", 3)
    write_pictures(tmp_path / "dog", 3, size=(20, 20))
    with pytest.raises(ValueError, match=r"dog/00.png' is 20 x 20 .* but .*cat/00.png' is 10 x 12; pass --image-size"):
        data.load(Config(data=str(tmp_path)))
    assert data.load(Config(data=str(tmp_path), image_size=9)).shape == (3, 9, 9)


def test_pictures_too_small_to_learn_from_are_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_pictures(tmp_path / name, 3, size=(4, 4))
    with pytest.raises(ValueError, match=r"00.png' is 4 x 4 pixels; at least 8 x 8"):
        data.load(Config(data=str(tmp_path)))


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_pictures(tmp_path / name, 3)
    (tmp_path / "dog" / "01.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"dog/01.png' cannot be used: 13 bytes are not a readable PNG or JPEG"):
        data.load(Config(data=str(tmp_path)))


def test_a_file_that_is_no_picture_by_its_name_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_pictures(tmp_path / name, 3)
    (tmp_path / "dog" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"dog/notes.txt' is not one of .png, .jpg, .jpeg"):
        data.load(Config(data=str(tmp_path)))


def test_a_folder_with_one_class_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "cat", 3)
    with pytest.raises(ValueError, match=r"has 1 class folders \(cat\); at least 2"):
        data.load(Config(data=str(tmp_path)))


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path / "cat", 3)
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"dog' holds 0 images; at least 3"):
        data.load(Config(data=str(tmp_path)))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--data .*absent' is not a folder"):
        data.load(Config(data=str(tmp_path / "absent")))


def test_augmentation_depends_on_seed_epoch_and_index_only() -> None:
    train = data.load(Config()).train
    index_B, draw = torch.arange(40), Draw(0, 3)
    moved = train.batch(index_B, draw).images
    shuffled = torch.randperm(40)
    assert torch.equal(train.batch(index_B[shuffled], draw).images, moved[shuffled])
    assert torch.equal(torch.cat([train.batch(part, draw).images for part in index_B.split(7)]), moved)
    assert not torch.equal(train.batch(index_B, Draw(0, 4)).images, moved)
    assert not torch.equal(train.batch(index_B, Draw(1, 3)).images, moved)


def test_augmentation_keeps_most_of_the_picture_and_the_range() -> None:
    train = data.load(Config()).train
    plain, moved = (train.batch(torch.arange(500), draw).images.float() for draw in (None, Draw(0, 0)))
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 255.01
    assert torch.corrcoef(torch.stack([plain.flatten(), moved.flatten()]))[0, 1] > 0.8


def test_mirroring_swaps_left_and_right_of_half_the_pictures() -> None:
    plain = torch.zeros(400, 1, 8, 8, dtype=torch.uint8)
    plain[:, :, :, :4] = 255
    split = data.Images(plain, torch.zeros(400, dtype=torch.int64), 0.0, augmented=True, mirrored=True)
    moved = split.batch(torch.arange(400), Draw(0, 0)).images
    swapped = (moved[..., 4:].sum((1, 2, 3)) > moved[..., :4].sum((1, 2, 3))).float().mean()
    assert 0.4 < float(swapped) < 0.6


def test_without_augment_training_sees_the_images_as_they_are() -> None:
    train = data.load(Config(augment=False)).train
    assert torch.equal(train.batch(torch.arange(9), Draw(0, 0)).images, train.batch(torch.arange(9), None).images)


def test_the_digest_names_the_content(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_pictures(tmp_path / name, 3)
    before = data.load(Config(data=str(tmp_path))).digest
    assert len(bytes.fromhex(before)) == hashlib.sha256().digest_size
    Image.new("RGB", (12, 10), 99).save(tmp_path / "dog" / "00.png")
    assert data.load(Config(data=str(tmp_path))).digest != before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"label_smoothing": 1.0}, "--label-smoothing is 1.0"),
        ({"image_size": 7}, "--image-size is 7; it must be 8 to 1024"),
        ({"epochs": -1}, "--epochs is -1"),
        ({"pretrained": "default"}, "--pretrained default has no weights for --arch convnet"),
    ],
)
def test_a_flag_out_of_range_is_named(flags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**flags)


def test_epochs_follow_the_data_set_unless_given() -> None:
    assert [Config().epochs, Config(dataset="mnist").epochs, Config(dataset="mnist", epochs=3).epochs] == [20, 8, 3]
