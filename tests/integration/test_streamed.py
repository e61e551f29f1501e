"""Ray Data makes of files what a single process makes of them, in the same order."""

import json
from pathlib import Path

import pytest
from ray.exceptions import RayError

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
    made = {}
    for way in ("cluster", "alone"):
        monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / way))
        if way == "alone":
            monkeypatch.setattr("ray.is_initialized", lambda: False)
        data.load(config)
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
