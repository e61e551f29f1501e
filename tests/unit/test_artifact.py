"""A model artifact holds weights and descriptions, each with its digest, and nothing that could run."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines import artifact, sealed


def _save(folder: Path) -> None:
    save_file({"weight": torch.ones(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"width": 3}')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    artifact.write(tmp_path / "artifact", "parity", _save)
    return tmp_path / "artifact"


def test_an_artifact_verifies_and_names_its_task(tmp_path: Path) -> None:
    digest = artifact.write(tmp_path / "artifact", "parity", _save)
    assert artifact.verify(tmp_path / "artifact") == digest
    assert artifact.task_of(tmp_path / "artifact") == "parity"
    assert len(digest) == 64


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_one_flipped_byte_is_refused(folder: Path, file: str) -> None:
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"'{file}' in .* is not what its MANIFEST\.json says"):
        artifact.verify(folder)


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "run.py", "README", "model.joblib"])
def test_a_file_of_another_kind_is_refused_unopened(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(ValueError, match=rf"holds '{name}'; an artifact holds only \.safetensors, \.json, \.parquet"):
        artifact.verify(folder)


def test_a_file_that_the_manifest_does_not_list_is_refused(folder: Path) -> None:
    (folder / "extra.json").write_text("{}")
    with pytest.raises(ValueError, match=r"'extra\.json', which its MANIFEST\.json does not list"):
        artifact.verify(folder)


@pytest.mark.parametrize("name", artifact.REQUIRED)
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"lacks '{name}'; it is no model artifact"):
        artifact.verify(folder)


def test_a_missing_manifest_is_refused(folder: Path) -> None:
    (folder / sealed.MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"no readable MANIFEST\.json"):
        artifact.verify(folder)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no artifact folder"):
        artifact.verify(tmp_path / "nothing")


def test_a_model_that_saves_a_pickle_leaves_no_artifact(tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        _save(folder)
        (folder / "tokenizer.pkl").write_bytes(b"x")

    with pytest.raises(ValueError, match=r"holds 'tokenizer\.pkl'"):
        artifact.write(tmp_path / "artifact", "parity", save)
    assert not (tmp_path / "artifact").exists()


def test_a_model_that_crashes_while_saving_leaves_no_artifact(tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        _save(folder)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        artifact.write(tmp_path / "artifact", "parity", save)
    assert not (tmp_path / "artifact").exists()


class _Trap:
    """Would run at unpickling."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("the pickle was opened",)
