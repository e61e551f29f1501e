"""A task of the user's own, trained, registered and served, with nothing of tensors or services in its folder."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from trained import ROOT, Trained, python

from pipelines import artifact
from services import models
from services.oip import open_inference_pb2 as pb
from services.options import Options
from services.server import Server

PARITY = ROOT / "examples" / "parity"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The parity example, trained for one epoch in a working folder of its own."""
    folder = tmp_path_factory.mktemp("own")
    flags = ["--local", "--run-dir", "run", "--epochs", "1", "--longest", "3", "--threads", "1"]
    done = python("-m", "eagerly", "train", str(PARITY), *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    return Trained(folder, done)


def stored(trained: Trained, task: Path, folder: Path | None = None) -> models.Stored:
    place = folder or trained.run_dir / "artifact"
    return models.Stored("parity", str(place), 1, "a-run", artifact.verify(place), str(task))


def infer(address: str, texts: list[bytes]) -> pb.ModelInferResponse:
    request = pb.ModelInferRequest(model_name="parity")
    given = request.inputs.add(name="input", datatype="BYTES", shape=[len(texts)])
    given.contents.bytes_contents.extend(texts)
    with grpc.insecure_channel(address) as channel:
        path = "/inference.GRPCInferenceService/ModelInfer"
        method = channel.unary_unary(path, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
        return method(request, timeout=30, wait_for_ready=True)


def answers(response: pb.ModelInferResponse) -> list[str]:
    return [word.decode() for word in response.outputs[0].contents.bytes_contents]


async def served(loaded: models.Loaded, folder: Path, texts: list[bytes]) -> pb.ModelInferResponse:
    server = Server(Options(port=0, metrics_port=0), [loaded], folder)
    await server.start()
    try:
        return await asyncio.to_thread(infer, f"127.0.0.1:{server.port}", texts)
    finally:
        await server.drain()


def test_training_leaves_the_schema_in_the_artifact(trained: Trained) -> None:
    schema = artifact.schema_of(trained.run_dir / "artifact")
    assert schema is not None
    assert [(tensor.name, tensor.datatype, tensor.content) for tensor in (*schema.inputs, *schema.outputs)] == [
        ("input", "BYTES", "text"),
        ("output", "BYTES", "text"),
    ]


def test_what_was_trained_answers_as_its_model_does(trained: Trained, tmp_path: Path) -> None:
    loaded = models.load(stored(trained, PARITY))
    response = asyncio.run(served(loaded, tmp_path, [b"1", b"101", b"0"]))
    assert answers(response) == loaded.model.predict(["1", "101", "0"])
    assert loaded.service is None


def test_an_artifact_from_before_schemas_is_served_by_one_derived(trained: Trained, tmp_path: Path) -> None:
    model = models.load(stored(trained, PARITY)).model
    artifact.write(tmp_path / "old", "parity", model.save)
    loaded = models.load(stored(trained, PARITY, tmp_path / "old"))
    assert loaded.schema is None
    response = asyncio.run(served(loaded, tmp_path / "metrics", [b"11"]))
    assert answers(response) == model.predict(["11"])


def test_a_task_whose_folder_is_gone_is_one_sentence(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nor a folder"):
        models.load(stored(trained, tmp_path / "parity"))


def test_eagerly_serve_takes_the_folder(trained: Trained, tmp_path: Path) -> None:
    own = trained.folder / "parity"  # a copy, as a user's own project has it, and not one that is imported here
    shutil.copytree(PARITY, own, ignore=shutil.ignore_patterns("__pycache__"))
    port, metrics_port = _free_ports(2)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    }
    environment |= {"PYTHONPATH": str(ROOT), "EAGERLY_HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "eagerly", "serve", "./parity", "--port", port, "--metrics-port", metrics_port]
    process = subprocess.Popen(command, cwd=trained.folder, env=environment, text=True, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("ready after" in line for line in lines), "ended before it was ready"
        response = infer(f"127.0.0.1:{port}", [b"1", b"11"])
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert (response.model_version, len(answers(response))) == ("1", 2)


def _free_ports(count: int) -> list[str]:
    with_ports = [socket.socket() for _ in range(count)]
    try:
        for one in with_ports:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in with_ports]
    finally:
        for one in with_ports:
            one.close()
