"""A journal is read while it is written, and survives a crash."""

import math
import time
from pathlib import Path

import pytest
from disks import no_file_beyond

from pipelines import journal


def test_events_are_read_as_they_are_written(tmp_path: Path) -> None:
    reader = journal.Reader(tmp_path / "run")
    assert list(reader.new_events()) == []
    writer = journal.Journal(tmp_path / "run")
    before = time.time()
    writer.append({"event": "start", "steps": 3})
    (event,) = reader.new_events()
    assert (event["event"], event["steps"]) == ("start", 3)
    assert before - 1 <= event["time"] <= time.time() + 1
    assert list(reader.new_events()) == []
    writer.append({"event": "test"})
    assert [event["event"] for event in reader.new_events()] == ["test"]
    writer.close()


def test_a_line_cut_short_is_passed_over_and_the_next_one_read(tmp_path: Path) -> None:
    writer = journal.Journal(tmp_path)
    writer.append({"event": "one"})
    writer.close()
    with (tmp_path / journal.NAME).open("a") as file:
        file.write('{"event": "tw')
    reader = journal.Reader(tmp_path)
    assert [event["event"] for event in reader.new_events()] == ["one"]
    resumed = journal.Journal(tmp_path)
    resumed.append({"event": "three"})
    resumed.close()
    assert [event["event"] for event in reader.new_events()] == ["three"]
    assert [event["event"] for event in journal.Reader(tmp_path).new_events()] == ["one", "three"]


def test_a_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    reader = journal.Reader(tmp_path)
    path = tmp_path / journal.NAME
    path.write_text('{"event": "st')
    assert list(reader.new_events()) == []
    path.write_text('{"event": "start"}\n')
    assert [event["event"] for event in reader.new_events()] == ["start"]


def test_a_resumed_run_can_pass_over_what_was_there(tmp_path: Path) -> None:
    writer = journal.Journal(tmp_path)
    writer.append({"event": "old"})
    reader = journal.Reader(tmp_path)
    reader.skip()
    writer.append({"event": "new"})
    writer.close()
    assert [event["event"] for event in reader.new_events()] == ["new"]


def test_losses_that_are_not_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    writer = journal.Journal(tmp_path)
    writer.append({"event": "steps", "losses": [float("nan"), float("inf")]})
    writer.close()
    (event,) = journal.Reader(tmp_path).new_events()
    assert math.isnan(event["losses"][0]) and event["losses"][1] == math.inf


def test_a_full_disk_loses_no_event_and_tears_no_line(tmp_path: Path) -> None:
    writer = journal.Journal(tmp_path)
    writer.append({"event": "first"})
    with no_file_beyond(60):
        for number in range(20):
            writer.append({"event": "steps", "number": number})
        assert (tmp_path / "journal.jsonl").stat().st_size <= 60
        full = journal.Journal(tmp_path, "other")
        full.append({"event": "long", "text": "x" * 100})
        with pytest.raises(OSError, match="File too large"):
            full.close()
    writer.append({"event": "last"})
    writer.close()
    numbers = [event.get("number") for event in journal.Reader(tmp_path).new_events()]
    assert numbers == [None, *range(20), None]
