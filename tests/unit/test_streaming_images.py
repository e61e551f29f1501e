"""Images that outgrow memory: decoded once onto the disk, and learned from as if they were in memory."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import ROOT, stop, train

from pipelines import loading, reference, results
from pipelines.classifier import data, streaming
from pipelines.classifier.config import Config
from pipelines.examples import SPLITS, Draw

HEIGHT, WIDTH = 12, 14
SETTINGS = {"epochs": 2, "batch_size": 16, "dropout": 0.3}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None) -> None:
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))


def picture(number: int, size: tuple[int, int] = (HEIGHT, WIDTH), mode: str = "RGB") -> Image.Image:
    shape = size if mode == "L" else (*size, 3)
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, np.uint8))


def write(place: Path, count: int) -> Path:
    for number in range(count):
        name = ("cat", "dog", "dog-2", "fox")[number % 4]
        path = place / name / ("", "a", "a-b")[number % 3] / f"{number}{('.png', '.JPG')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, mode=("RGB", "L")[number % 5 == 0]).save(path)
    (place / "cat" / ".hidden.txt").touch()
    (place / ".git").mkdir()
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four classes of PNG and JPEG files, grey and coloured, some in folders of their own, some hidden."""
    return write(tmp_path / "photos", 480)


def both(where: Path | str, **flags: object) -> tuple[data.ImageData, data.ImageData]:
    return data.load(Config(data=str(where), **flags)), data.load(Config(data=str(where), stream=True, **flags))  # type: ignore[arg-type]


def assert_same(here: data.ImageData, there: data.ImageData) -> None:
    assert (here.digest, here.labels, here.shape) == (there.digest, there.labels, there.shape)
    assert (here.mean, here.std) == (there.mean, there.std)
    assert all(torch.equal(one, other) for one, other in zip(here.prints, there.prints, strict=True))
    for name in SPLITS:
        one, other = getattr(here, name), getattr(there, name)
        every = torch.randperm(len(one))
        for draw in (None, Draw(0, 1)):
            for wanted, got in zip(one.batch(every, draw), other.batch(every, draw), strict=True):
                assert wanted == got if isinstance(wanted, float) else torch.equal(wanted, got)
        assert len(one) == len(other) > 0


@pytest.mark.parametrize("flags", [{}, {"image_size": 9}, {"seed": 3, "mirror": True}])
def test_a_streamed_folder_holds_what_it_holds_in_memory(folder: Path, flags: dict[str, object]) -> None:
    here, there = both(folder, **flags)
    assert_same(here, there)
    assert there.shape == (3, *((9, 9) if "image_size" in flags else (HEIGHT, WIDTH)))
    shown = zip(data.inputs(here), data.inputs(there), strict=True)
    assert all(np.array_equal(one, other) for one, other in shown)
    assert np.array_equal(data.test_inputs(here, [3])[0], data.test_inputs(there, [3])[0])


def test_grey_pictures_stay_grey_and_turned_ones_are_put_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            lying = picture(number, (WIDTH, HEIGHT), "L")
            lying.save(tmp_path / "photos" / name / f"{number}.jpg", exif=turned)
            lying.save(tmp_path / "photos" / name / f"{number}.png", exif=turned)
        picture(9, mode="L").save(tmp_path / "photos" / name / "9.png")
        upright = picture(8, mode="L")
        wide = np.asarray(upright, np.uint16) << 8
        Image.fromarray(wide).save(tmp_path / "photos" / name / "8.png")
    here, there = both(tmp_path / "photos")
    assert_same(here, there)
    assert there.shape == (1, HEIGHT, WIDTH)


def test_a_streamed_run_ends_with_what_a_run_in_memory_ends_with(folder: Path, tmp_path: Path) -> None:
    here = train(tmp_path / "here", data=str(folder), **SETTINGS)
    there = train(tmp_path / "there", data=str(folder), stream=True, **SETTINGS)
    assert here.losses == there.losses and here.metrics == there.metrics and "temperature" in there.metrics
    digests = [json.loads((run.folder / "artifact" / "MANIFEST.json").read_text())["files"] for run in (here, there)]
    assert digests[0] == digests[1] and {"model.safetensors", "config.json"} <= set(digests[0])
    one, other = (results.read(run.folder) for run in (here, there))
    assert one and other and one.data_digest == other.data_digest
    assert one.prints is not None and other.prints is not None and np.array_equal(one.prints, other.prints)


def test_how_far_the_files_are_read_is_told_and_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"data": str(folder), "stream": True, **SETTINGS}
    quiet = train(tmp_path / "quiet", **settings)
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "another"))
    monkeypatch.setattr(loading, "SECONDS", 0.0)
    monkeypatch.setattr(streaming, "PART_BYTES", 200 * 3 * HEIGHT * WIDTH)
    told = train(tmp_path / "told", **settings)
    said = [event.get("sentence", "") for event in told.named("loading")]
    assert said == [
        "",
        "reading data, first pass, 0 of 480 files",
        "reading data, first pass, 480 of 480 files",
        *(f"reading data, second pass, {done} of 480 files" for done in (0, 200, 400, 480)),
    ]
    assert told.losses == quiet.losses and told.metrics == quiet.metrics
    again = train(tmp_path / "again", **settings)
    assert len(again.named("loading")) == 1  # nothing is read again


def test_a_streamed_run_leaves_a_reference_for_drift(tmp_path: Path) -> None:
    for number in range(reference.LEAST_EXAMPLES * 10):
        path = tmp_path / "photos" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, (8, 8), "L").save(path)
    train(tmp_path / "run", data=str(tmp_path / "photos"), stream=True, epochs=1, arch="article")
    found = reference.read(tmp_path / "run" / "artifact")
    assert found is not None and sum(found.features["brightness"].counts) == reference.LEAST_EXAMPLES


def test_a_streamed_run_resumes_exactly(folder: Path, tmp_path: Path) -> None:
    settings = {"data": str(folder), "stream": True, **SETTINGS}
    whole = train(tmp_path / "whole", checkpoint_steps=4, **settings)
    stop(tmp_path / "parts", checkpoint_steps=4, stop_at=9, **settings)
    resumed = train(tmp_path / "parts", checkpoint_steps=4, **settings)
    assert resumed.named("resume")[0]["step"] > 0
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


def test_the_pixels_are_made_once_and_anew_for_other_files_sizes_and_seeds(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home" / "streams"
    first = data.load(Config(data=str(folder), stream=True))
    made = {path: path.stat().st_mtime_ns for path in home.glob("*/*.bin")}
    data.load(Config(data=f"{folder}/", stream=True, batch_size=8, label_smoothing=0.3))
    assert {path: path.stat().st_mtime_ns for path in home.glob("*/*.bin")} == made
    for number, flags in enumerate(({"seed": 1}, {"image_size": 8}), 2):
        data.load(Config(data=str(folder), stream=True, **flags))  # type: ignore[arg-type]
        assert len(list(home.glob("*/facts.json"))) == number
    picture(1000).save(folder / "cat" / "0.png")
    assert data.load(Config(data=str(folder), stream=True)).digest != first.digest


KILLED = """
import os, signal, sys
from pipelines import shards
from pipelines.classifier import data
from pipelines.classifier.config import Config
append = shards.Writer.append
def killed(self, column, values):
    append(self, column, values)
    if column == "test.targets":
        os.kill(os.getpid(), signal.SIGKILL)
shards.Writer.append = killed
data.load(Config(data=sys.argv[1], stream=True))
"""


def test_what_a_killed_process_had_made_is_not_used(folder: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILLED, str(folder)]
    ended = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    home = tmp_path / "home" / "streams"
    assert ended.returncode == -signal.SIGKILL and len(list(home.glob(".*.rough/*.bin"))) > 3
    assert_same(*both(folder))
    assert not list(home.glob(".*.rough")) and len(list(home.glob("*/facts.json"))) == 1


def _whole(mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    file = io.BytesIO()
    picture(7, size, mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("dog/1.png", b"not a picture", "dog/1.png' cannot be used: 13 bytes are not a readable PNG or JPEG"),
        ("dog/1.png", _whole()[:-400], "dog/1.png' cannot be used: "),
        ("dog/1.jpg", _whole(kind="JPEG")[:-200], "dog/1.jpg' cannot be used: "),
        ("dog/1.png", b"", "dog/1.png' cannot be used: 0 bytes"),
        ("dog/1.png", _whole(kind="GIF"), "dog/1.png' cannot be used: "),
        ("dog/1.png", _whole(size=(9, 40)), "dog/1.png' is 9 x 40 pixels (height x width) but "),
        ("dog/notes.txt", b"what", "dog/notes.txt' is not one of .png, .jpg, .jpeg"),
        ("dog/1.png", _whole()[:16] + b"\x00\x01\x00\x00" * 2 + _whole()[24:], "has 4,294,967,296 pixels; at most"),
        ("bird/1.png", _whole(), "bird' holds 1 images; at least 3 are needed"),
    ],
)
def test_a_bad_file_is_refused_as_it_is_in_memory(folder: Path, name: str, content: bytes, sentence: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    said = []
    for stream in (False, True):
        with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
            data.load(Config(data=str(folder), stream=stream))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert not [path for path in (folder.parent / "home").glob("streams/*") if path.is_dir()]


@pytest.mark.parametrize(
    ("classes", "size", "sentence"),
    [(1, 12, "has 1 class folders"), (2, 4, "is 4 x 4 pixels; at least 8 x 8"), (0, 8, "is not a folder")],
)
def test_a_bad_folder_is_refused_as_it_is_in_memory(tmp_path: Path, classes: int, size: int, sentence: str) -> None:
    for number in range(classes * 3):
        path = tmp_path / "photos" / str(number % classes) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, (size, size)).save(path)
    for stream in (False, True):
        with pytest.raises(ValueError, match=sentence):
            data.load(Config(data=str(tmp_path / "photos"), stream=stream))


def test_stream_needs_a_folder_and_an_address_needs_stream() -> None:
    with pytest.raises(ValueError, match="--stream reads the images of --data; name their folder"):
        Config(stream=True)
    with pytest.raises(ValueError, match=r"'s3://bucket/photos' is not on this machine; --stream reads"):
        data.load(Config(data="s3://bucket/photos"))


def test_a_disk_without_the_room_is_said_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, streams = namedtuple("usage", "total used free"), tmp_path / "home" / "streams"
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10**9, 10**9 - 10**5, 10**5))
    sentence = (
        rf"^the 480 images of '{folder}', at {HEIGHT} x {WIDTH} pixels, need 0.2 MB in '{streams}', "
        "where 0.1 MB are free; free some of it, or name a folder of another disk with EAGERLY_HOME, or take a smaller "
        "--image-size$"
    )
    with pytest.raises(ValueError, match=sentence):
        data.load(Config(data=str(folder), stream=True))
    assert not [path for path in streams.iterdir() if path.is_dir()]


def test_images_in_s3_are_decoded_as_those_of_a_folder(tmp_path: Path, bucket: str) -> None:
    from pyarrow import fs

    folder = write(tmp_path / "photos", 40)
    fs.copy_files(str(folder), f"{bucket}/photos")
    here, there = data.load(Config(data=str(folder))), data.load(Config(data=f"{bucket}/photos/", stream=True))
    assert_same(here, there)
    fs.copy_files(str(ROOT / "README.md"), f"{bucket}/photos/cat/README.md")
    with pytest.raises(ValueError, match=r"'s3://bucket/photos/cat/README.md' is not one of"):
        data.load(Config(data=f"{bucket}/photos", stream=True))
    with pytest.raises(ValueError, match=r"--data 's3://bucket/nowhere' is not a folder"):
        data.load(Config(data=f"{bucket}/nowhere", stream=True))


MEASURE = """
import sys, threading, time
import torch, pyarrow.fs, ray
from pipelines import batches
from pipelines.classifier import data
from pipelines.classifier.config import Config
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024
def read(folder, **flags):
    found = data.load(Config(data=folder, **flags))
    for batch_B in batches.training(0, 0, len(found.train), 4, None):
        found.train.batch(batch_B, None).images.sum()
    return max(int(image.max()) for image in data.inputs(found))
read(sys.argv[1], stream=True)
before, most = anonymous(), [0]
def watch():
    while True:
        most[0] = max(most[0], anonymous())
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
read(sys.argv[2], stream=sys.argv[3] == "stream")
print(most[0] - before)
"""
"""Pages of mapped files are not counted: the system takes them back when it needs them."""


def test_memory_stays_bounded_however_many_and_large_the_images(tmp_path: Path) -> None:
    size, count = 512, 800
    for name, some in (("small", 20), ("large", count)):
        for number in range(some):
            path = tmp_path / name / f"class{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (size, size), number).save(path)
    grown = {}
    for mode in ("stream", "memory"):
        words = [sys.executable, "-c", MEASURE, str(tmp_path / "small"), str(tmp_path / "large"), mode]
        settings = {**os.environ, "PYTHONPATH": str(ROOT)}
        grown[mode] = int(subprocess.run(words, env=settings, capture_output=True, text=True, check=True).stdout)
    whole = size * size * 3 * count
    assert grown["stream"] < whole / 4 < whole < grown["memory"]
