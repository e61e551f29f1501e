"""A job goes on where its disk is full, and begins no run anew that may lie in a storage which is away."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eagerly import supervisor
from pipelines import history, job_log, recovery

ROOT = Path(__file__).resolve().parents[2]
ROOM_BYTES = 200
FULL = f"""
import pathlib, resource, sys, time
from eagerly import supervisor
infinite = resource.RLIM_INFINITY
driver = '''
import os, pathlib, resource, sys, time
run_dir = pathlib.Path(sys.argv[1])
run_dir.mkdir()
for number in range(30_000):
    print("line", number)
time.sleep(1.5)
resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
(run_dir / "run.json").write_text("{{}}")
print("room", flush=True)
time.sleep(1.5)
'''
supervisor.Supervisor.command = lambda self: [sys.executable, "-c", driver, str(self.run_dir)]
supervisor.Supervisor._keep = lambda self: self._settle()
resource.setrlimit(resource.RLIMIT_FSIZE, ({ROOM_BYTES}, infinite))
sys.exit(supervisor.main(sys.argv[1:]))
"""


def plan(run_dir: Path, *flags: str) -> dict[str, object]:
    return {"name": "j", "task": "sentiment", "flags": flags, "run_dir": str(run_dir), "restarts": 0}


def test_a_job_rides_out_a_full_disk_and_its_log_and_status_are_whole_once_there_is_room(tmp_path: Path) -> None:
    words = json.dumps(plan(tmp_path / "run"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = job_log.for_people(done.stdout.splitlines())
    kept = (tmp_path / "run" / history.LOG).read_text().splitlines()
    for lines in (shown, kept):
        assert [line for line in lines if line.startswith("line")] == [f"line {number}" for number in range(30_000)]
        (told,) = [line for line in lines if "cannot be written" in line]
        assert told == "the job's log and status cannot be written (File too large); it goes on, and tries again"
        assert lines[-1] == "room"
    assert json.loads((tmp_path / "run" / history.STATUS).read_text())["phase"] == "done"


def test_a_log_says_how_many_lines_it_lacks_where_too_many_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "MOST_WAITING_BYTES", 20)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.write(writing, bytes(1 << 20))  # as much as fits
    log = job_log.Writer(writing)
    for number in range(5):
        log.write(f"line {number}")
    assert log.problem == "Resource temporarily unavailable"
    os.read(reading, 1 << 20)
    log.write("one that goes the same way")
    log.write("room")
    assert os.read(reading, 1 << 20).decode().splitlines() == [
        "line 0",
        "line 1",
        "4 lines are left out, as they could not be written",
        "room",
    ]
    log.close()
    os.close(reading)


def test_a_log_that_finds_no_room_in_its_new_place_stays_in_the_old(tmp_path: Path) -> None:
    log = job_log.Writer.open(tmp_path / "old")
    log.write("first")
    with pytest.raises(FileNotFoundError):
        log.move(tmp_path / "nowhere" / "new")
    log.write("second")
    assert (tmp_path / "old").read_text() == "first\nsecond\n"
    (tmp_path / "new").write_text("before\n")
    log.move(tmp_path / "new")
    log.write("third")
    log.close()
    assert (tmp_path / "new").read_text() == "before\nfirst\nsecond\nthird\n"


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A storage's folder that cannot be read, as it is a link to itself."""
    (tmp_path / "bucket").symlink_to(tmp_path / "bucket")
    return tmp_path / "bucket"


def test_a_run_whose_storage_comes_back_goes_on(
    tmp_path: Path, away: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recovery, "PAUSE_SECONDS", 0.01)

    def come(sentence: str) -> None:
        assert sentence.startswith(f"waits for the storage, 120 s at most: 'file://{away}/run' cannot be reached")
        away.unlink()
        (away / "run").mkdir(parents=True)
        (away / "run" / "run.json").write_text('{"word": "sentiment", "id": "1"}')

    recovery.bring(f"file://{away}", tmp_path / "head" / "run", come, lambda: False)
    job = supervisor.Supervisor(plan(tmp_path / "head" / "run", f"--storage=file://{away}"))
    assert "--resume" in job.command()
    job.log.close()


def test_a_run_whose_storage_stays_away_fails_in_a_sentence_and_is_not_begun_anew(
    tmp_path: Path, away: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recovery, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(recovery, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(supervisor.Supervisor, "_keep", lambda self: None)
    monkeypatch.setattr(supervisor, "_end_children", lambda: None)
    job = supervisor.Supervisor(plan(tmp_path / "head" / "run", f"--storage=file://{away}"))
    assert job.run() == 2
    output = capfd.readouterr().out
    assert "the run may be there, so that none is begun anew; submit the job with --again once" in output
    assert "cannot be reached" in output and "begins anew" not in output
    assert job_log.latest(output.splitlines())["phase"] == "failed"
    assert not (tmp_path / "head" / "run").exists()


def test_a_run_that_its_storage_does_not_hold_is_begun(tmp_path: Path) -> None:
    said: list[str] = []
    missing = recovery.bring(f"file://{tmp_path}/bucket", tmp_path / "run", said.append, lambda: False)
    assert missing == f"'file://{tmp_path}/bucket/run' holds no run: there is no run.json in it"
    assert not said
