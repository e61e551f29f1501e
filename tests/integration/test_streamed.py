"""Ray Data makes of files what a single process makes of them, in the same order."""

import json
from pathlib import Path

import pytest
import ray
from PIL import Image
from ray.exceptions import RayError

from pipelines import loading
from pipelines.classifier import data as images
from pipelines.classifier import streaming
from pipelines.classifier.config import Config as Images
from pipelines.sentiment import data
from pipelines.sentiment.config import Config

pytestmark = [pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")]  # ray's own settings


def test_ray_data_numbers_files_as_one_process_does(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    for name in ("b", "a", "c"):
        lines = [json.dumps({"text": f"{name} text {row}", "label": ("good", "bad")[row % 2]}) for row in range(1500)]
        (tmp_path / "files" / f"{name}.jsonl").write_text("\n".join(lines))
    config = Config(data=str(tmp_path / "files"), stream=True, vocabulary=300, ngrams=500)
    monkeypatch.setattr(loading, "SECONDS", 0.0)
    made = {}
    for way in ("cluster", "alone"):
        monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / way))
        if way == "alone":
            monkeypatch.setattr("ray.is_initialized", lambda: False)
        said: list[str] = []
        with loading.told(lambda event, said=said: said.append(event.get("sentence", ""))):
            data.load(config)
        assert said[-1] == "reading data, second pass, 4,500 of 4,500 rows"
        made[way] = {path.name: path.read_bytes() for path in sorted((tmp_path / way).glob("streams/*/*.*"))}
    assert made["cluster"] == made["alone"] and len(made["alone"]) > 15


def test_a_broken_row_on_the_cluster_is_one_sentence(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine", "label": "good"}\n{"text": "", "label": "bad"}\n')
    with pytest.raises(ValueError, match="line 2: the text is empty or blank") as caught:
        data.load(Config(data=str(path), stream=True))
    assert isinstance(caught.value.__cause__, RayError)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of images, more than one task of the cluster reads."""
    for number in range(3 * streaming.GROUP_FILES // 2):
        path = tmp_path / "photos" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(("RGB", "L")[number % 7 == 0], (9, 8), number % 256).save(path)
    return tmp_path / "photos"


def test_ray_data_decodes_images_as_one_process_does(
    ray_cluster: None, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for way in ("cluster", "alone"):
        monkeypatch.setenv("EAGERLY_HOME", str(photos.parent / way))
        if way == "alone":
            monkeypatch.setattr("ray.is_initialized", lambda: False)
        images.load(Images(data=str(photos), stream=True))
        made[way] = {path.name: path.read_bytes() for path in sorted((photos.parent / way).glob("streams/*/*.*"))}
    assert made["cluster"] == made["alone"] and len(made["alone"]) == 11


def test_a_broken_image_on_the_cluster_is_one_sentence(
    ray_cluster: None, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAGERLY_HOME", str(photos.parent / "home"))
    path = photos / "class1" / "1.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"class1/1.png' cannot be used: .* not a readable PNG or JPEG") as caught:
        images.load(Images(data=str(photos), stream=True))
    assert isinstance(caught.value.__cause__, RayError)


def test_a_worker_does_not_wait_for_processors_that_it_holds_itself(ray_cluster: None, photos: Path) -> None:
    home = str(photos.parent / "home")

    @ray.remote(num_cpus=int(ray.cluster_resources()["CPU"]), runtime_env={"env_vars": {"EAGERLY_HOME": home}})
    def load() -> int:
        return len(images.load(Images(data=str(photos), stream=True)).train)

    assert ray.get(load.remote(), timeout=120) > streaming.GROUP_FILES
