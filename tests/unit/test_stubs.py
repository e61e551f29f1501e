"""The generated code is what the contract says."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.rpc import status_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted(path.name for path in (ROOT / "proto" / "eagerly" / "v1").glob("*.proto"))
OPEN_INFERENCE = f"-Iservices/oip={ROOT / 'proto' / 'inference'}"


@pytest.mark.parametrize("proto", PROTOS)
def test_stubs_are_what_the_proto_generates(proto: str, tmp_path: Path) -> None:
    generated = _generated(tmp_path, f"eagerly/v1/{proto}", ("python", "pyi", "grpc_python"))
    assert len(generated) == 3
    for path in generated:
        assert path.read_text() == (ROOT / "eagerly" / "v1" / path.name).read_text(), f"run `make stubs`: {path.name}"


def test_the_messages_of_open_inference_are_what_its_proto_generates(tmp_path: Path) -> None:
    generated = _generated(tmp_path, "services/oip/open_inference.proto", ("python", "pyi"), OPEN_INFERENCE)
    assert len(generated) == 2
    for path in generated:
        assert path.read_text() == (ROOT / "services" / "oip" / path.name).read_text(), f"run `make stubs`: {path.name}"


def test_every_field_of_open_inference_has_the_name_the_number_and_the_type_that_tritonclient_knows() -> None:
    theirs, ours = _fields("tritonclient.grpc.service_pb2"), _fields("services.oip.open_inference_pb2")
    assert len(ours) > 60
    assert {line for line in ours if line not in theirs} == set()


def test_the_client_package_defines_nothing_of_open_inference() -> None:
    program = "import eagerly.client, sys; print([name for name in sys.modules if 'inference' in name])"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def _generated(folder: Path, proto: str, kinds: tuple[str, ...], *arguments: str) -> list[Path]:
    google = Path(status_pb2.__file__).parents[2]
    out = [f"--{kind}_out={folder}" for kind in kinds]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"-I{google}", *arguments, *out]
    subprocess.run([*command, proto], check=True)
    return sorted((folder / proto).parent.iterdir())


def _fields(module: str) -> list[str]:
    """Lists every method and field of GRPCInferenceService; in a process of its own, as both define `inference`."""
    program = f"""
from {module} import DESCRIPTOR as file
def show(message):
    if message.full_name.startswith("inference."):
        for field in message.fields:
            name = field.message_type.full_name if field.message_type else ""
            print(field.full_name, field.number, field.type, field.is_repeated, name)
        for nested in message.nested_types:
            show(nested)
for method in file.services_by_name["GRPCInferenceService"].methods:
    print(method.full_name, method.input_type.full_name, method.output_type.full_name)
for message in file.message_types_by_name.values():
    show(message)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
