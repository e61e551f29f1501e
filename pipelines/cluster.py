"""A Ray cluster on this machine to submit jobs to: starts it, remembers it, ends exactly its processes."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.launch import SETTINGS

if TYPE_CHECKING:
    import psutil

FILE, TOKEN = "cluster.json", "cluster-token"
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Turned off, Ray takes 127.0.0.1 for the address of its machine, as it does on Windows and a Mac, and listens there
alone. Else it listens on every interface: it takes a `--node-ip-address` of 127.0.0.1 for the one that others see."""
START_SECONDS, STOP_SECONDS = 120.0, 10.0


@dataclass(frozen=True)
class Local:
    """The cluster that this user started on this machine."""

    address: str
    """Of its dashboard, where jobs are submitted."""
    pid: int
    """The process that holds all others."""
    born: float
    """When that process began (seconds since 1970), since process ids are used again."""
    folder: str
    """Ray's own: sessions, logs, sockets."""
    token: str
    """The file of the token that the cluster asks for; empty when it asks for none."""


def home() -> Path:
    """The folder of state and caches: $EAGERLY_HOME, or ~/.eagerly."""
    return Path(os.environ.get("EAGERLY_HOME") or Path.home() / ".eagerly").resolve()


def known() -> Local | None:
    """Finds the cluster that was started here and lives; forgets one that died."""
    try:
        local = Local(**json.loads((home() / FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return local if _holder(local) else None


def use_token(local: Local) -> None:
    """Makes this process's Ray show the token of the cluster, unless the environment says how to."""
    if local.token and "RAY_AUTH_TOKEN" not in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN_PATH", local.token)


def start(port: int, client_port: int, cpus: int, gpus: int) -> Local:
    """Starts a cluster whose dashboard listens on a port of loopback, and waits until it takes jobs.

    `client_port` is for Ray's own client; `cpus` 0 and `gpus` -1 are what this machine has.

    Every process of it asks for a token, unless RAY_AUTH_MODE says otherwise. Raises ValueError when one runs here
    already, or when Ray does not come up.
    """
    if (there := known()) is not None:
        raise ValueError(f"a cluster runs here already, at {there.address}; `eagerly cluster down` ends it")
    _sweep()
    home().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="eagerly-ray-"))  # short: the paths of sockets have 107 characters at most
    environment, token = _environment()
    words = ["--head", "--port=0", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}", "--include-dashboard=true"]
    words += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--block"]
    words += [f"--ray-client-server-port={client_port}", "--dashboard-agent-listen-port=0"]
    words += [f"--num-cpus={cpus}"] * (cpus > 0) + [f"--num-gpus={gpus}"] * (gpus >= 0)
    log = (folder / "start.log").open("wb")
    with log:
        holder = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *words],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder,
        )  # fmt: skip
    import psutil

    local = Local(f"http://127.0.0.1:{port}", holder.pid, psutil.Process(holder.pid).create_time(), str(folder), token)
    (home() / FILE).write_text(json.dumps(asdict(local)) + "\n")
    deadline = time.monotonic() + START_SECONDS
    while not answers(local):
        if holder.poll() is not None or time.monotonic() > deadline:
            lines = (folder / "start.log").read_text(errors="replace").strip().splitlines()
            stop(local)
            raise ValueError(f"Ray did not start ({lines[-1] if lines else 'it said nothing'}); is the port free?")
        time.sleep(0.1)
    return local


def private(environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Makes the variables that keep a Ray to this user: it listens on loopback alone, and its token is in a file.

    What the environment says itself stays. Returns the token's file too, which is made where it is missing; none where
    the environment brings a token or wants none.
    """
    variables = {LOOPBACK: environment.get(LOOPBACK, "0")}
    if environment.get("RAY_AUTH_MODE", "token") != "token" or "RAY_AUTH_TOKEN" in environment:
        return variables, ""
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or home() / TOKEN)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return {**variables, "RAY_AUTH_TOKEN_PATH": str(path)}, str(path)


def answers(local: Local) -> bool:
    """Says whether the cluster's jobs server answers."""
    token = Path(local.token).read_text().strip() if local.token and Path(local.token).exists() else ""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{local.address}/api/jobs/", headers=headers), timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def stop(local: Local) -> int:
    """Ends the cluster's processes and no others, removes its folder, and returns how many there were."""
    import psutil

    there = _processes(local)
    if (holder := _holder(local)) is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            holder.terminate()
    _, alive = psutil.wait_procs(there, timeout=STOP_SECONDS)
    for process in {*alive, *_processes(local)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=STOP_SECONDS)
    (home() / FILE).unlink(missing_ok=True)
    shutil.rmtree(local.folder, ignore_errors=True)
    return len(there)


def _environment() -> tuple[dict[str, str], str]:
    """Makes the environment of the cluster's processes, and says in which file their token is."""
    environment = {**os.environ, **{name: os.environ.get(name, value) for name, value in SETTINGS.items()}}
    environment.pop("RAY_ADDRESS", None)
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    environment["PATH"] = os.pathsep.join(paths)  # so that a job's `python` is this one
    variables, token = private(environment)
    return {**environment, **variables, **({"RAY_AUTH_MODE": "token"} if token else {})}, token


def _holder(local: Local) -> "psutil.Process | None":
    import psutil

    try:
        process = psutil.Process(local.pid)
        same = abs(process.create_time() - local.born) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def _processes(local: Local) -> "list[psutil.Process]":
    """Finds the holder, what is left of its session, as when it was killed, and all below them.

    What is left names the cluster's own folder; another's program that does so is in another session.
    """
    import psutil

    found: dict[int, Any] = {}
    roots = [holder] if (holder := _holder(local)) else []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(local.folder in word for word in process.cmdline()) and _session(process.pid) == local.pid:
                roots.append(process)
    for process in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {one.pid: one for one in (process, *process.children(recursive=True))}
    found.pop(os.getpid(), None)
    return list(found.values())


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:  # it has ended, or is another user's
        return -1


def _sweep() -> None:
    """Ends what is left of a cluster whose holder was killed."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        stop(Local(**json.loads((home() / FILE).read_text(encoding="utf-8"))))
