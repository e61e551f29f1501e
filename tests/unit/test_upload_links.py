"""Files on their way to a cluster and its code: links are followed, and what cannot be read is one sentence."""

import os
import shutil
from pathlib import Path

import pytest

from pipelines import bundle, tasks, uploads
from pipelines.classifier import folders

ROOT = Path(__file__).resolve().parents[2]
REGRESSION = ROOT / "examples" / "linear_regression"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images, one of whose classes is a link to another folder."""
    for name in ("photos/cat", "photos/dog", "birds"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(f"{name} {number}".encode())
    (tmp_path / "photos" / "bird").symlink_to(tmp_path / "birds")
    return tmp_path / "photos"


def bring(address: str) -> Path:
    config = uploads.brought(tasks.find("classifier").config.Config(data=address))
    return Path(str(vars(config)["data"]))


def test_a_class_whose_folder_is_a_link_is_uploaded_like_the_others(photos: Path, tmp_path: Path) -> None:
    address, _ = uploads.send(photos, f"file://{tmp_path}/bucket")
    here, there = folders.find(str(photos)), folders.find(str(bring(address)))
    assert there.labels == here.labels == ["bird", "cat", "dog"] and there.names == here.names


def test_a_link_to_a_folder_that_it_is_in_is_passed_over(photos: Path, tmp_path: Path) -> None:
    names = [path.relative_to(photos).as_posix() for path in bundle.below(photos)]
    (photos / "cat" / "all").symlink_to(photos)
    (tmp_path / "birds" / "itself").symlink_to(tmp_path / "birds")
    found = {path.relative_to(photos).as_posix() for path in bundle.below(photos)}
    assert found == set(names)
    assert len(uploads.digest(photos)) == 64


def test_files_are_brought_also_beside_what_another_pod_of_the_same_process_number_left(
    photos: Path, tmp_path: Path, home: Path
) -> None:
    address, _ = uploads.send(photos, f"file://{tmp_path}/bucket")
    digest = uploads.digest(photos)
    other = home / "data" / f".{digest}.{os.getpid()}.rough" / "photos"
    other.mkdir(parents=True)
    (other / "half.png").write_bytes(b"of another Pod")
    assert uploads.digest(bring(address)) == digest
    assert (other / "half.png").exists()
    assert {path.name for path in (home / "data").iterdir()} == {digest, other.parent.name}


def test_a_folder_that_holds_a_file_that_cannot_be_read_is_refused_by_its_name(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(uploads.sealed, "hash_file", refuse)
    with pytest.raises(ValueError, match=r"'.*/photos/bird/0.png' cannot be read \(Permission denied\)"):
        uploads.digest(photos)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of a task of one's own."""
    return Path(shutil.copytree(REGRESSION, tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__")))


def test_code_that_is_too_large_is_refused_before_it_is_copied(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "everything.bin").write_bytes(bytes(9 << 20))
    monkeypatch.setattr(bundle, "MOST_BYTES", 8 << 20)
    monkeypatch.setattr(shutil, "copy2", lambda *paths: pytest.fail("it was copied"))
    monkeypatch.setattr(shutil, "copytree", lambda *paths, **how: pytest.fail("it was copied"))
    with pytest.raises(ValueError, match=r"'mine/everything.bin' the most of it, and 8 MB may travel"):
        bundle.made(str(own)).__enter__()


def test_a_link_to_nothing_in_a_task_is_one_sentence(own: Path, tmp_path: Path) -> None:
    (own / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"'.*/mine/gone' is a link, and cannot be read \(No such file or directory\)"):
        bundle.made(str(own)).__enter__()


def test_what_is_no_file_in_a_task_is_one_sentence(own: Path) -> None:
    os.mkfifo(own / "pipe")
    with pytest.raises(ValueError, match=r"'.*/mine/pipe' cannot be read \(.*\), and the code travels whole; mend"):
        bundle.made(str(own)).__enter__()


def test_links_in_a_task_travel_as_what_they_lead_to(own: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "words.txt").write_text("one\n")
    (own / "words").symlink_to(tmp_path / "shared")
    (own / "again").symlink_to(own)
    with bundle.made(str(own)) as made:
        assert (made.folder / "mine" / "words" / "words.txt").read_text() == "one\n"
        assert not (made.folder / "mine" / "words").is_symlink() and not (made.folder / "mine" / "again").exists()
