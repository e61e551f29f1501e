"""What the chart's containers run, run here: MLflow with its users in a real Postgres, and the calls of `helm test`."""

import base64
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from charts import CHART, rendered

pytestmark = pytest.mark.usefixtures("chart_tools")


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CHART / "files" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Postgres of this test's own, with a % in its password."""
    found = shutil.which("postgres")
    if found is None:
        pytest.skip("no postgres on this machine")
    folder, port, binaries = tmp_path_factory.mktemp("postgres"), free_port(), Path(found).resolve().parent
    as_user = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    for path in [folder, *folder.parents[:2]]:
        path.chmod(0o755)
    if as_user:
        os.chown(folder, 65534, -1)
    (folder / "password").write_text("a%b")
    (folder / "password").chmod(0o644)
    initdb = shutil.which("initdb") or str(binaries / "initdb")
    make = [
        initdb,
        "-D",
        str(folder / "data"),
        "-U",
        "mlflow",
        "-A",
        "scram-sha-256",
        "--pwfile",
        str(folder / "password"),
    ]
    done = subprocess.run([*as_user, *make], capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        pytest.skip(f"no postgres on this machine: {done.stderr.strip()[-200:]}")
    serve = [found, "-D", str(folder / "data"), "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
    with (folder.parent / "postgres.log").open("wb") as log:
        process = subprocess.Popen([*as_user, *serve], stdout=log, stderr=log, cwd="/")
    try:
        uri = f"postgresql+psycopg://mlflow:a%25b@127.0.0.1:{port}/postgres"
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        yield uri
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def mlflow(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """MLflow as its container runs it, and its administrator's password."""
    (deployment,) = [one for one in rendered() if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    secret = {key: value.decode() for key, value in program("make_secrets").tracking("eagerly-tracking").items()}
    secret["uri"] = postgres
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for variable in container["env"]:
        value = variable.get("value")
        environment[variable["name"]] = (
            value if value is not None else secret[variable["valueFrom"]["secretKeyRef"]["key"]]
        )
    environment |= {"ARTIFACTS": str(folder / "artifacts"), "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini")}
    environment |= {"WORKERS": "1", "HOME": str(folder)}
    script = container["args"][0].replace("/tmp/", f"{folder}/").replace("--port 5000", f"--port {port}")
    script = script.replace("--host 0.0.0.0", "--host 127.0.0.1")
    with (folder / "log").open("wb") as log:
        command = ["bash", "-ec", script]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            time.sleep(0.3)
        yield address, secret["password"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def status(address: str, password: str = "", host: str = "eagerly-tracking:5000") -> int:
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": host}
    )
    if password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"eagerly:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert "experiments" in json.load(reply)
            return int(reply.status)
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code


@pytest.mark.skipif(
    os.environ.get("EAGERLY_CONTROL_PLANE") != "1", reason="no control plane: `make test-kube` starts one"
)
def test_mlflow_knows_its_users_and_its_names(mlflow: tuple[str, str]):
    address, password = mlflow
    assert status(address, password) == 200
    assert status(address) == 401
    assert status(address, "wrong") == 401
    assert status(address, password, host="attacker.example.org") == 403
