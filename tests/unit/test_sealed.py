"""A sealed folder is whole or absent, and says when it is neither."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from pipelines import sealed


def _fill(rough: Path) -> None:
    (rough / "a.json").write_text("{}")
    (rough / "b.safetensors").write_bytes(bytes(range(100)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sealed.write(tmp_path / "sealed", _fill, {"task": "x"})
    return tmp_path / "sealed"


def test_a_sealed_folder_verifies_to_the_digest_it_was_written_with(tmp_path: Path) -> None:
    digest = sealed.write(tmp_path / "sealed", _fill)
    assert sealed.verify(tmp_path / "sealed") == digest == sealed.hash_file(tmp_path / "sealed" / sealed.MANIFEST)


def test_the_digest_depends_on_content_and_facts_alone(tmp_path: Path) -> None:
    digests = [sealed.write(tmp_path / str(number), _fill, {"task": task}) for number, task in enumerate("xxy")]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("way", ["put", "write"])
def test_what_is_put_in_place_is_on_the_disk_before_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def noted(handle: int) -> None:
        done.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", lambda path, target: (done.append("renamed"), replace(path, target)))
    if way == "put":
        sealed.put(tmp_path / "a.json", "{}")
    else:
        sealed.write(tmp_path / "sealed", _fill)
    moved = done.index("renamed")
    assert {Path(path).name.split(".")[1] for path in done[:moved]} >= ({"a"} if way == "put" else {"sealed"})
    assert done[moved + 1 :] == [str(tmp_path)]


@given(some.integers(0, 99), some.integers(1, 255))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_byte_is_found_and_named(folder: Path, at: int, flip: int) -> None:
    path = folder / "b.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    with pytest.raises(sealed.Corrupt, match=r"'b\.safetensors' in .* is not what"):
        sealed.verify(folder)
    path.write_bytes(whole)
    sealed.verify(folder)


def test_a_file_more_is_refused(folder: Path) -> None:
    (folder / "c.json").write_text("{}")
    with pytest.raises(sealed.Corrupt, match=r"holds 'c\.json', which its MANIFEST\.json does not list"):
        sealed.verify(folder)


def test_a_file_less_is_refused(folder: Path) -> None:
    (folder / "a.json").unlink()
    with pytest.raises(sealed.Corrupt, match=r"lacks 'a\.json', which its MANIFEST\.json lists"):
        sealed.verify(folder)


def test_a_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "a.json").unlink()
    (folder / "a.json").mkdir()
    with pytest.raises(sealed.Corrupt, match=r"'a\.json'"):
        sealed.verify(folder)


@pytest.mark.parametrize("manifest", ["", "{", "[]", "{}", '{"files": 3}', '"files"', '{"files": ["a.json"]}'])
def test_an_unreadable_manifest_is_refused(folder: Path, manifest: str) -> None:
    (folder / sealed.MANIFEST).write_text(manifest)
    with pytest.raises(sealed.Corrupt, match=r"no readable MANIFEST\.json"):
        sealed.verify(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sealed.Corrupt, match=r"no readable MANIFEST\.json"):
        sealed.verify(tmp_path / "nothing")


def test_a_crash_half_way_leaves_nothing_at_the_name(tmp_path: Path) -> None:
    def crash(rough: Path) -> None:
        _fill(rough)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sealed.write(tmp_path / "sealed", crash)
    assert not (tmp_path / "sealed").exists()
    sealed.write(tmp_path / "sealed", _fill)
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


def test_a_sealed_folder_is_never_written_over(folder: Path) -> None:
    with pytest.raises(FileExistsError):
        sealed.write(folder, _fill)
    sealed.verify(folder)
