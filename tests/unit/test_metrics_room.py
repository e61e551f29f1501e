"""Metrics on a full disk: no process is killed by a page that the disk cannot give, and no count is lost."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services import graves, metrics

DIED = """
import sys
from pathlib import Path
from services import metrics
mine = metrics.Metrics(Path(sys.argv[1]))
mine.value(metrics.REQUESTS, "sentiment", "Analyze", "OK").add(5)
mine.value(metrics.IN_FLIGHT, "sentiment", "Analyze").set(3)
"""


def read(folder: Path) -> dict[str, float]:
    """What a scrape shows of a service's requests, by the names of the metrics."""
    families = text_string_to_metric_families(metrics.scrape(folder).decode())
    return {one.name: one.value for family in families for one in family.samples if one.labels}


def fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for a disk on which nothing more has room."""

    def refuse(descriptor: int, offset: int, length: int) -> None:
        if os.fstat(descriptor).st_size < length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)


def holes(folder: Path) -> list[str]:
    """The files of which the disk has not all pages."""
    files = list(folder.glob("*.db"))
    assert files
    return [one.name for one in files if one.stat().st_blocks * 512 < one.stat().st_size]


def swap(mine: metrics.Metrics, numbers: range) -> None:
    for number in numbers:
        mine.value(metrics.MODEL_INFO, "sentiment", str(number), "r" * 32, "d" * 64).set(1)


def test_every_page_is_there_before_it_is_written_at_the_start_and_when_a_file_grows(tmp_path: Path) -> None:
    mine = metrics.Metrics(tmp_path)
    assert not holes(tmp_path)
    swap(mine, range(3 * graves.ROOM_BYTES // 300))
    assert max(one.stat().st_size for one in tmp_path.glob("*.db")) > graves.ROOM_BYTES
    assert not holes(tmp_path)
    mine.close()


def test_the_sums_of_the_dead_have_their_pages_too(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIED, str(tmp_path)], check=True, timeout=60)
    assert read(tmp_path)["eagerly_requests_total"] == 5
    assert {one.name for one in tmp_path.glob("*.db")} == {"counter_0.db"}
    assert not holes(tmp_path)


def test_a_full_disk_refuses_the_start_in_a_sentence_and_leaves_nobody_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "figures"
    with monkeypatch.context() as patch:
        fill(patch)
        with pytest.raises(ValueError, match=r"cannot be written to .*No space left on device.*TMPDIR"):
            metrics.Metrics(folder)
    assert not metrics.alive_pids(folder)
    metrics.Metrics(folder).close()


def test_a_disk_that_fills_up_keeps_what_is_counted_and_shows_no_new_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = metrics.Metrics(tmp_path)
    requests = mine.value(metrics.REQUESTS, "sentiment", "Analyze", "OK")
    requests.add(1)
    fill(monkeypatch)
    swap(mine, range(3 * graves.ROOM_BYTES // 300))
    requests.add(1)
    assert read(tmp_path)["eagerly_requests_total"] == 2
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    assert "no room for new metrics" in caplog.text
    mine.close()


def test_the_dead_keep_their_counts_and_lose_their_gauges_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-c", DIED, str(tmp_path)], check=True, timeout=60)
    with monkeypatch.context() as patch:
        fill(patch)
        for _ in range(2):
            assert read(tmp_path) == {"eagerly_requests_total": 5}
        assert not (tmp_path / "counter_0.db").exists()
    assert read(tmp_path) == {"eagerly_requests_total": 5}
    assert {one.name for one in tmp_path.iterdir()} == {"lock", "counter_0.db"}
