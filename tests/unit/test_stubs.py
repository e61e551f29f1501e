"""The generated code is what the contract says."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.rpc import status_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted(path.name for path in (ROOT / "proto" / "eagerly" / "v1").glob("*.proto"))


@pytest.mark.parametrize("proto", PROTOS)
def test_stubs_are_what_the_proto_generates(proto: str, tmp_path: Path) -> None:
    google = Path(status_pb2.__file__).parents[2]
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"-I{google}", *out]
    subprocess.run([*command, f"eagerly/v1/{proto}"], check=True)
    generated = sorted((tmp_path / "eagerly" / "v1").iterdir())
    assert len(generated) == 3
    for path in generated:
        assert path.read_text() == (ROOT / "eagerly" / "v1" / path.name).read_text(), f"run `make stubs`: {path.name}"
