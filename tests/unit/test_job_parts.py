"""What travels to a cluster, what is refused before anything does, and how a supervisor looks after its driver."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from eagerly import supervisor
from eagerly.cli import main
from eagerly.commands import kubernetes, orders, submit
from pipelines import bundle, cluster, job_log, tasks, uploads
from pipelines.jobs import Order
from pipelines.journal import note
from pipelines.settings import Launch

ROOT = Path(__file__).resolve().parents[2]
REGRESSION = ROOT / "examples" / "linear_regression"


@dataclass
class Elsewhere:
    """A cluster on other machines, as far as orders are made for it."""

    machines: int = 1
    address: str = "http://head:8265"

    def is_here(self) -> bool:
        return False

    def nodes(self) -> list[dict[str, float]]:
        return [{"CPU": 8.0}] * self.machines


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    return tmp_path / "home"


def order(*words: str, there: Elsewhere | None = None) -> Order:
    """Makes the order of `eagerly submit WORDS` for a cluster elsewhere."""
    wish = submit.read(list(words))
    return orders.make(wish, there or Elsewhere(), wish.word, Path("code"))  # type: ignore[arg-type]


def test_the_code_that_travels_is_whole_and_holds_no_caches(tmp_path: Path) -> None:
    own = tmp_path / "mine"
    shutil.copytree(REGRESSION, own)
    for name in (
        ".git/config",
        "__pycache__/x.pyc",
        ".venv/bin/python",
        "runs/one/run.json",
        "mlruns/0/meta",
        "mlflow.db",
    ):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text("x")
    (own / "sample").mkdir(exist_ok=True)
    (own / "sample" / "rows.csv").write_text("1,2\n")
    with bundle.made(str(own)) as made:
        names = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
        assert made.word == "./mine" and made.file_count == len(names)
        assert {"mine/train.py", "mine/sample/rows.csv", "pipelines/loop.py", "eagerly/cli.py"} <= names
        assert any(name.startswith("pipelines/sentiment/sample/") for name in names)
        odd = ("__pycache__", ".git", ".venv", "/runs/", "mlruns", "mlflow.db", "services/")
        assert [name for name in names if any(part in name for part in odd)] == []
        shown = subprocess.run(
            [sys.executable, "-c", "import eagerly.supervisor as it; print(it.__file__)"],
            cwd=made.folder,
            env={**os.environ, "PYTHONPATH": str(made.folder)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout.startswith(str(made.folder))
    assert not made.folder.exists()


def test_code_that_is_too_large_to_travel_is_refused_with_its_largest_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(REGRESSION, tmp_path / "mine")
    (tmp_path / "mine" / "everything.bin").write_bytes(bytes(9 << 20))
    monkeypatch.setattr(bundle, "MOST_BYTES", 8 << 20)
    with pytest.raises(ValueError, match=r"'mine/everything.bin' the most of it, and 8 MB may travel; keep data out"):
        bundle.made(str(tmp_path / "mine")).__enter__()


def test_the_flags_of_an_order_make_the_very_settings_that_were_given() -> None:
    words = ["sentiment", "--epochs", "3", "--lr", "0.01", "--workers", "4", "--gpu", "--priority", "2", "--name", "j"]
    made = order(*words)
    again = submit.read(["sentiment", *made.flags])
    first = submit.read(words)
    assert again.config == first.config and again.launch == first.launch
    assert made.variables()["EAGERLY_JOB_PRIORITY"] == "2" and made.name == "j"


@pytest.mark.parametrize("name", tasks.TASKS)
def test_flags_that_are_written_are_read_as_the_same(name: str) -> None:
    config = tasks.find(name).config.Config()
    other = replace(config, epochs=config.epochs + 1, seed=7, amp="bf16")
    launch = Launch(workers=3, gpu=True, promote="never", checkpoint_steps=5)
    words = [*orders.words_of(other), *orders.words_of(launch)]
    read = submit.read([name, *words])
    assert read.config == other and read.launch == launch


@pytest.mark.parametrize(
    "line",
    [
        "classifier --dataset mnist --epochs 20",
        "classifier --dataset mnist",
        "classifier --data photos --epochs 20",
        "sentiment --encoder x/y --epochs 10 --batch-size 64 --lr 0.01 --dropout 0.5",
        "sentiment --encoder x/y --batch-size 64 --accumulate 64",
    ],
)
def test_flags_whose_defaults_depend_on_others_are_written_where_they_are_not_the_default(line: str) -> None:
    config = submit.read(line.split()).config
    words = list(orders.words_of(config))
    assert submit.read([line.split()[0], *words]).config == config
    assert {word.partition("=")[0] for word in words} == {word for word in line.split() if word.startswith("--")}


def test_a_local_file_is_uploaded_to_the_storage_by_its_digest_and_only_once(tmp_path: Path) -> None:
    data, storage = tmp_path / "reviews.csv", tmp_path / "shared"
    data.write_text("text,label\ngood,1\n")
    storage.mkdir()
    words = ("sentiment", "--data", str(data), "--storage", str(storage), "--name", "j")
    made = order(*words)
    (sent,) = [Path(flag.removeprefix("--data=")) for flag in made.flags if flag.startswith("--data=")]
    assert sent == storage / "data" / uploads.digest(data) / "reviews.csv"
    assert sent.read_text() == data.read_text()
    assert made.run_dir == str(storage / "j")
    sent.write_text("unchanged if it is not sent again")
    order(*words)
    assert sent.read_text() == "unchanged if it is not sent again"
    data.write_text("text,label\nbad,0\n")
    assert str(uploads.digest(data)) in str(order(*words).flags)


def test_a_folder_that_was_uploaded_is_brought_back_whole_and_refused_when_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    for name in ("cat/1.png", "dog/2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    address, new = uploads.send(folder, f"file://{tmp_path}/bucket")
    assert new and uploads.send(folder, f"file://{tmp_path}/bucket") == (address, False)
    config = tasks.find("classifier").config.Config(data=address)
    brought = Path(str(vars(uploads.brought(config))["data"]))
    assert uploads.digest(brought) == uploads.digest(folder) and brought != folder
    shutil.rmtree(brought.parent)
    (tmp_path / "bucket" / "data" / uploads.digest(folder) / "images" / "cat" / "1.png").write_bytes(b"torn")
    with pytest.raises(ValueError, match="is not what was uploaded; submit the job again"):
        uploads.brought(config)
    monkeypatch.undo()


def test_equal_files_of_several_names_are_each_brought_by_their_own(tmp_path: Path, home: Path) -> None:
    names = ("first.csv", "second.csv", "first.csv")
    for name in names:
        (tmp_path / name).write_text("text,label\ngood,1\n")
        address, _ = uploads.send(tmp_path / name, f"file://{tmp_path}/bucket")
        brought = Path(str(vars(uploads.brought(tasks.find("sentiment").config.Config(data=address)))["data"]))
        assert brought.name == name and brought.read_text() == (tmp_path / name).read_text()
    (folder,) = (home / "data").iterdir()
    assert {path.name for path in folder.iterdir()} == set(names)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--data {data}", "is on this machine, and the job has no --storage; add --storage with s3://BUCKET"),
        (
            "--data nowhere.csv",
            "--data is 'nowhere.csv', which is not here; a path of the cluster's is given as file:///",
        ),
        ("--data {data} --storage /not/here", "and --storage '/not/here' is no folder here"),
        ("--storage shared", "--storage is 'shared'; name the shared folder by its whole path"),
        ("--stream --data {folder}/*.csv", "a pattern of files on this machine; name their folder, which is uploaded"),
        ("--stream --data {folder}/*.parquet", "/*.parquet', which is not here; a path of the cluster's is given as"),
    ],
)
def test_files_that_the_cluster_cannot_see_are_refused_with_the_way_out(
    words: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text("text,label\n")
    with pytest.raises(ValueError, match=r"--(data|storage)") as raised:
        order("sentiment", *words.format(data=tmp_path / "data.csv", folder=tmp_path).split())
    assert sentence in str(raised.value)


@pytest.mark.parametrize("flag", ["--ratings", "--items"])
def test_files_of_other_flags_that_are_not_here_are_refused_too(flag: str, tmp_path: Path) -> None:
    there = {"--ratings": "file:///there/ratings.csv", "--items": "file:///there/items.csv", flag: "nowhere.csv"}
    words = [f"{name}={value}" for name, value in there.items()]
    with pytest.raises(ValueError, match=f"{flag} is 'nowhere.csv', which is not here"):
        order("recommender", *words)


def test_a_path_of_the_clusters_own_is_passed_on() -> None:
    assert "--data=/mnt/reviews.csv" in order("sentiment", "--data", "file:///mnt/reviews.csv").flags


def test_several_machines_need_a_folder_that_all_see() -> None:
    with pytest.raises(ValueError, match="the cluster has 3 machines, and a run needs a folder that all of them see"):
        order("sentiment", there=Elsewhere(3))


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db", "http://127.0.0.1:5000"])
def test_a_tracking_store_of_this_machine_alone_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        ValueError, match="which is of this machine alone, and the cluster at http://head:8265 is another"
    ):
        order("sentiment")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("sentiment", "there is no cluster to ask; name one with --address, or start one with `eagerly cluster up`"),
        ("sentiment --address http://127.0.0.1:1", "no cluster answers at http://127.0.0.1:1 (Connection refused)"),
        ("sentiment --address ray://head:10001", "it must be that of a Ray dashboard, such as http://head:8265"),
        ("sentiment --local", "--local trains in this process"),
        ("sentiment --resume runs/x", "--name NAME --again goes on with a job that ended early"),
        ("sentiment --again", "say which with --name"),
        ("sentiment --name Big_Job", "it must be small letters, digits and hyphens"),
        ("sentiment --queue team", "--queue goes with --kubernetes"),
        ("nothing", "unknown task 'nothing'"),
    ],
)
def test_what_cannot_be_submitted_is_one_sentence(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", *line.split()]) == 2
    assert sentence in capsys.readouterr().err


def test_the_verbs_of_jobs_say_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = [
        "jobs cancel x",
        "jobs stop",
        "jobs list x",
        "cluster down",
        "cluster sideways",
        "cluster up --cpus -2",
    ]
    for line in lines:
        assert main(line.split()) == 2, line
        assert capsys.readouterr().err.startswith("eagerly: ")


def test_a_cluster_whose_holder_died_is_forgotten(home: Path) -> None:
    gone = cluster.Local("http://127.0.0.1:8265", 2**22 - 3, 1.0, "/nowhere", "")
    home.mkdir()
    (home / cluster.FILE).write_text(json.dumps(gone.__dict__))
    assert cluster.known() is None


def supervise(folder: Path, driver: str, restarts: int) -> "subprocess.Popen[str]":
    """Starts a supervisor whose `eagerly train` is a program of the test's."""
    (folder / "driver.py").write_text(driver)
    program = f"""
import sys, json
from eagerly import supervisor
supervisor.Supervisor.command = lambda self: [sys.executable, {str(folder / "driver.py")!r}, str(self.run_dir)]
supervisor.Supervisor._keep = lambda self: None
sys.exit(supervisor.main(sys.argv[1:]))
"""
    plan = {"name": "j", "task": "sentiment", "flags": [], "run_dir": str(folder / "run"), "restarts": restarts}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(plan)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_a_name_whose_run_is_there_goes_on_with_it_also_from_a_storage_when_its_head_is_gone(tmp_path: Path) -> None:
    bucket = f"file://{tmp_path}/bucket"
    (tmp_path / "bucket" / "j").mkdir(parents=True)
    (tmp_path / "bucket" / "j" / "run.json").write_text('{"word": "sentiment", "id": "1"}')
    flags = ["--epochs=3", f"--storage={bucket}"]
    for name, there in (("j", True), ("new", False)):
        run_dir = tmp_path / "head" / name
        plan = {"name": name, "task": "sentiment", "flags": flags, "run_dir": str(run_dir), "restarts": 0}
        one = supervisor.Supervisor(plan)
        words = one.command()
        one.log.close()
        assert words[1:5] == ["-m", "eagerly", "train", "sentiment"]
        assert ("--resume" in words) == there and ("--run-dir" in words) != there
        assert str(run_dir) in words and "--epochs=3" in words


def test_an_order_says_where_a_task_of_ones_own_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REGRESSION.parent)
    assert order("linear_regression").folder == str(REGRESSION) and order("sentiment").folder == ""


def test_the_name_of_a_run_that_is_done_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "shared" / "j"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    words = ("sentiment", "--storage", str(tmp_path / "shared"), "--name", "j")
    assert order(*words).run_dir == str(folder)
    (folder / "journal.jsonl").write_text('{"event": "test"}\n')
    with pytest.raises(ValueError, match=r"the job name 'j' is taken by a run that is done, in .*; give another"):
        order(*words)


KILLED_TWICE = """
import os, pathlib, signal, sys
count = pathlib.Path(sys.argv[1] + ".count")
count.write_text(count.read_text() + "x" if count.exists() else "x")
print("attempt", len(count.read_text()), flush=True)
if len(count.read_text()) < 3:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_driver_that_is_killed_is_started_again_within_the_budget(tmp_path: Path) -> None:
    one = supervise(tmp_path, KILLED_TWICE, 3)
    output = one.communicate(timeout=60)[0]
    assert one.returncode == 0
    assert [line for line in output.splitlines() if line.startswith("attempt")] == [
        "attempt 1",
        "attempt 2",
        "attempt 3",
    ]
    said = [found for line in output.splitlines() if (found := job_log.read(line))]
    assert said[-1]["phase"] == "done" and said[-1]["restarts"] == 2
    assert all(one.keys() >= {"name", "run_dir", "step", "steps"} for one in said)  # the last alone suffices


LOGGED = """
import json, pathlib, sys, time
run_dir = pathlib.Path(sys.argv[1])
run_dir.mkdir()
(run_dir / "mlflow.json").write_text(json.dumps({"run_id": "0123abcd", "experiment_id": "3"}))
time.sleep(1)
"""


@pytest.mark.parametrize(
    ("uri", "link"),
    [
        ("http://tracking:5000", "http://tracking:5000/#/experiments/3/runs/0123abcd"),
        ("https://ann:secret@tracking/sub", "https://tracking/sub/#/experiments/3/runs/0123abcd"),
        ("sqlite:////data/mlflow.db", "0123abcd in sqlite:////data/mlflow.db (`mlflow ui` shows it)"),
    ],
)
def test_a_job_says_where_its_run_is_in_mlflow_and_gives_no_password_away(
    uri: str, link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = job_log.latest(supervise(tmp_path, LOGGED, 0).communicate(timeout=60)[0].splitlines())
    assert (said["mlflow"], said["link"]) == ("0123abcd", link)


def test_a_job_whose_run_was_trained_but_not_recorded_says_so(tmp_path: Path) -> None:
    driver = f"import sys; print({job_log.line({'unrecorded': '/runs/one'})!r}); sys.exit(1)"
    one = supervise(tmp_path, driver, 0)
    said = job_log.latest(one.communicate(timeout=60)[0].splitlines())
    assert one.returncode == 1
    assert (said["phase"], said["unrecorded"]) == ("failed", "/runs/one")


def test_a_rayjob_names_the_ray_of_its_image() -> None:
    (pinned,) = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith("ray==")]
    assert pinned.split()[0] == f"ray=={kubernetes.RAY}"


WAITS = """
import pathlib, sys, time
from pipelines.journal import note
run_dir = pathlib.Path(sys.argv[1])
note(run_dir, {"event": "waiting", "sentence": "waiting for 4 CPUs: the cluster has 2 CPUs, 1 of them free"})
time.sleep(1.5)
note(run_dir, {"event": "starting"})
time.sleep(1.5)
"""


def test_a_job_that_waits_for_room_says_so_and_for_what_until_it_goes_on(tmp_path: Path) -> None:
    output = supervise(tmp_path, WAITS, 0).communicate(timeout=60)[0]
    said = [(one["phase"], one.get("waits_for", "")) for line in output.splitlines() if (one := job_log.read(line))]
    sentence = "waiting for 4 CPUs: the cluster has 2 CPUs, 1 of them free"
    assert ("waiting", sentence) in said and ("starting", "") in said[said.index(("waiting", sentence)) :]
    assert {sentence for phase, sentence in said if phase != "waiting"} == {""}


def test_a_driver_that_writes_much_leaves_a_numbered_line_for_programs_near_every_other(tmp_path: Path) -> None:
    output = supervise(tmp_path, "for _ in range(2000): print('the same')", 0).communicate(timeout=60)[0]
    lines = output.splitlines()
    places = [place for place, line in enumerate(lines) if job_log.NUMBER in job_log.read(line)]
    numbers = [job_log.read(lines[place])[job_log.NUMBER] for place in places]
    assert numbers == list(range(1, len(numbers) + 1)) and lines.count("the same") == 2000
    assert max(later - sooner for sooner, later in itertools.pairwise([-1, *places, len(lines)])) <= 257


def test_a_driver_that_is_killed_too_often_or_refuses_fails(tmp_path: Path) -> None:
    one = supervise(tmp_path, KILLED_TWICE, 1)
    assert "the last of 1 restarts" in one.communicate(timeout=60)[0]
    assert one.returncode == 128 + signal.SIGKILL
    two = supervise(tmp_path, "import sys; print('no'); sys.exit(2)", 3)
    assert two.communicate(timeout=60)[0].count("no\n") == 1
    assert two.returncode == 2


RESIZED = """
import os, pathlib, signal, sys
from pipelines.journal import note
count = pathlib.Path(sys.argv[1] + ".count")
if not count.exists():
    count.write_text("x")
    for _ in range(3):
        note(pathlib.Path(sys.argv[1]), {"event": "restart", "cause": "resize", "reason": "2 workers", "count": 1})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_restarts_of_workers_are_shown_and_are_none_of_those_that_the_driver_has(tmp_path: Path) -> None:
    one = supervise(tmp_path, RESIZED, 1)
    output = one.communicate(timeout=60)[0]
    assert one.returncode == 0 and "it goes on from the last checkpoint" in output
    assert job_log.latest(output.splitlines())["restarts"] == 4


def test_restarts_that_a_run_had_before_it_was_brought_are_none_of_the_jobs(tmp_path: Path) -> None:
    there, bucket = tmp_path / "bucket" / "j", f"file://{tmp_path}/bucket"
    there.mkdir(parents=True)
    (there / "run.json").write_text('{"word": "sentiment", "id": "1"}')
    restart = {"event": "restart", "cause": "loss", "reason": "a worker was lost", "count": 1}
    for _ in range(3):
        note(there, restart)
    flags, run_dir = [f"--storage={bucket}"], tmp_path / "head" / "j"
    job = supervisor.Supervisor({"name": "j", "task": "sentiment", "flags": flags, "run_dir": str(run_dir)})
    assert "--resume" in job.command() and (run_dir / "journal.jsonl").exists()
    job._look()
    assert job.said["restarts"] == 0
    note(run_dir, restart)
    job._look()
    job.log.close()
    assert job.said["restarts"] == 1


def test_programs_that_only_name_a_clusters_folder_are_not_ended_with_it(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "eagerly-ray-x"
    folder.mkdir()
    (folder / "x").write_text("")
    home.mkdir()
    program = "import subprocess, sys; subprocess.Popen(['tail', '-f', sys.argv[1]]); sys.stdin.read()"
    held = subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "x")], start_new_session=True, stdin=subprocess.PIPE
    )
    reads = subprocess.Popen(["tail", "-f", str(folder / "x")], start_new_session=True)
    try:
        while not (below := _children(held.pid)):
            time.sleep(0.02)
        born = psutil.Process(held.pid).create_time()
        held.kill()  # what is left of the cluster is known by its session
        held.wait()
        assert cluster.stop(cluster.Local("http://127.0.0.1:1", held.pid, born, str(folder), "")) == 1
        assert not psutil.pid_exists(below[0]) and reads.poll() is None and not folder.exists()
    finally:
        reads.kill()
        reads.wait()
        held.stdin.close()  # type: ignore[union-attr]


def test_a_supervisor_that_is_told_to_stop_starts_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    orphan = (
        "import subprocess, sys, time, pathlib; child = subprocess.Popen(['sleep', '300'], start_new_session=True); "
    )
    orphan += "pathlib.Path(sys.argv[1] + '.pid').write_text(str(child.pid)); time.sleep(300)"
    one = supervise(tmp_path, orphan, 3)
    pid = tmp_path / "run.pid"
    while not (pid.exists() and pid.read_text()):
        time.sleep(0.02)
    (driver,) = _children(one.pid)
    os.kill(one.pid, signal.SIGTERM)
    os.kill(driver, signal.SIGTERM)
    assert '"phase": "stopped"' in one.communicate(timeout=60)[0]
    assert not Path(f"/proc/{pid.read_text()}").exists()


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
