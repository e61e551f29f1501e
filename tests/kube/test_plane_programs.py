"""The chart's programs, with the rights that the chart gives them, against the real API server."""

import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml
from charts import CHART, rendered
from planes import Plane

from services.tokens import Tokens, digest

FILES = CHART / "files"
SPACE = "programs"


@pytest.fixture(scope="module")
def account(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The service accounts of the hook and of retraining, with what the chart lets them do, as a Pod sees them."""
    plane.namespace(SPACE)
    kinds = ("ServiceAccount", "Role", "RoleBinding")
    manifests = [one for one in rendered("cpu") if one["kind"] in kinds]
    for one in manifests:
        for subject in one.get("subjects", []):
            subject["namespace"] = SPACE
    plane.kubectl("apply", "-n", SPACE, "-f", "-", stdin=yaml.safe_dump_all(manifests))
    folders = {}
    server = yaml.safe_load(plane.kubeconfig.read_text())["clusters"][0]["cluster"]
    for name in ("eagerly-secrets-hook", "eagerly-retraining"):
        folder = folders[name] = tmp_path_factory.mktemp(name)
        (folder / "token").write_text(plane.kubectl("create", "token", name, "-n", SPACE))
        (folder / "ca.crt").write_bytes(Path(server["certificate-authority"]).read_bytes())
    return folders


def program(plane: Plane, account: Path, name: str, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    server = urlparse(yaml.safe_load(plane.kubeconfig.read_text())["clusters"][0]["cluster"]["server"])
    environment = {
        **os.environ,
        "KUBERNETES_SERVICE_HOST": str(server.hostname),
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "SERVICE_ACCOUNT": str(account),
        "SECRETS_PREFIX": "eagerly",
        "SECRETS_NAMESPACE": SPACE,
        "DNS_NAMES": '["localhost", "eagerly-sentiment"]',
        **more,
    }
    command = [sys.executable, str(FILES / name), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def held(plane: Plane, name: str) -> dict[str, bytes]:
    secret = json.loads(plane.kubectl("get", "secret", name, "-n", SPACE, "-o", "json"))
    return {key: base64.b64decode(value) for key, value in secret["data"].items()}


def test_secrets_are_made_once_and_then_stay(plane: Plane, account: dict[str, Path], tmp_path: Path):
    words = ("tls", "tokens", "tracking", "database")
    hook = account["eagerly-secrets-hook"]
    first = program(plane, hook, "make_secrets.py", *words)
    assert first.returncode == 0, first.stderr
    made = {word: held(plane, f"eagerly-{word}") for word in words}
    second = program(plane, hook, "make_secrets.py", *words)
    assert second.stdout.count("there already") == 4
    assert {word: held(plane, f"eagerly-{word}") for word in words} == made

    token = made["tokens"]["client"].decode()
    grant = Tokens("--tokens", made["tokens"]["tokens"]).find(digest(token))
    assert grant is not None and grant.permissions == {"*"}
    assert made["database"]["password"].decode() in made["database"]["uri"].decode()
    secrets = [made["tracking"]["password"], made["tracking"]["flask-key"], made["database"]["password"]]
    assert min(len(one) for one in secrets) >= 32
    assert not any(one.decode() in first.stdout + first.stderr for one in [*secrets, made["tokens"]["client"]])


def test_the_certificate_that_is_made_serves_under_every_name(plane: Plane, account: dict[str, Path], tmp_path: Path):
    program(plane, account["eagerly-secrets-hook"], "make_secrets.py", "tls")
    for name, content in held(plane, "eagerly-tls").items():
        (tmp_path / name).write_bytes(content)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    for name in ("localhost", "eagerly-sentiment"):
        ours, theirs = socket.socketpair()
        server = threading.Thread(target=_greet, args=(context, theirs))
        server.start()
        with trust.wrap_socket(ours, server_hostname=name) as spoken:
            assert spoken.version() == "TLSv1.3"
        server.join()


def _greet(context: ssl.SSLContext, end: socket.socket) -> None:
    end.settimeout(10)
    with context.wrap_socket(end, server_side=True) as spoken:
        spoken.recv(1)


def test_a_certificate_that_lacks_a_name_is_renewed(plane: Plane, account: dict[str, Path]):
    hook = account["eagerly-secrets-hook"]
    program(plane, hook, "make_secrets.py", "tls")
    before = held(plane, "eagerly-tls")
    output = program(plane, hook, "make_secrets.py", "tls", DNS_NAMES='["localhost", "another"]')
    assert "eagerly-tls: renewed" in output.stdout, output.stderr
    after = held(plane, "eagerly-tls")
    assert after["tls.crt"] != before["tls.crt"]
    assert (after["ca.crt"], after["ca.key"]) == (before["ca.crt"], before["ca.key"])


def test_the_hook_may_not_read_other_secrets(plane: Plane, account: dict[str, Path]):
    plane.kubectl("create", "secret", "generic", "eagerly-other", "-n", SPACE, "--from-literal=a=b")
    output = program(plane, account["eagerly-secrets-hook"], "make_secrets.py", "tls", SECRETS_PREFIX="eagerly-other")
    assert output.returncode != 0
    assert "403" in output.stderr


def test_retraining_makes_a_job_for_each_task_and_may_do_nothing_else(
    plane: Plane, account: dict[str, Path], tmp_path: Path
):
    (held_job,) = [one["data"]["rayjob.json"] for one in rendered("cpu") if "rayjob.json" in one.get("data", {})]
    job = json.loads(held_job)
    job["metadata"]["namespace"] = SPACE
    (tmp_path / "rayjob.json").write_text(json.dumps(job))
    retraining = account["eagerly-retraining"]
    words = (str(tmp_path / "rayjob.json"), "sentiment", "classifier", "--", "--epochs=20", "--data=my file.csv")
    output = program(plane, retraining, "submit_jobs.py", *words)
    assert output.returncode == 0, output.stderr
    jobs = {one["metadata"]["labels"]["eagerly/task"]: one for one in plane.get("rayjobs", SPACE)}
    assert set(jobs) == {"sentiment", "classifier"}
    command = "eagerly train sentiment --workers 4 --wait --epochs=20 '--data=my file.csv'"
    assert jobs["sentiment"]["spec"]["entrypoint"] == command
    allowed = plane.run(
        *("kubectl", "auth", "can-i", "delete", "rayjobs", "-n", SPACE),
        *("--as", f"system:serviceaccount:{SPACE}:eagerly-retraining"),
    )
    assert allowed.stdout.strip() == "no"
