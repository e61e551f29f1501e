"""The certificate that each of Ray's Pods draws for itself when security.rayTls is on."""

import importlib.util
import json
import socket
import ssl
import threading
from pathlib import Path
from types import ModuleType

import keys
import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "helm" / "eagerly" / "files" / "ray_certificate.py"
HEAD = "eagerly-serving-head-svc.eagerly.svc.cluster.local"


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the init container of a head draws from an authority."""
    authority = keys.certificate("authority")
    written = authority.write(tmp_path, "authority")
    source, place = tmp_path / "source", tmp_path / "tls"
    source.mkdir()
    place.mkdir()
    for path, name in zip(written, ("ca.crt", "ca.key"), strict=True):
        (source / name).write_bytes(Path(path).read_bytes())
    monkeypatch.setenv("POD_IP", "10.1.2.3")
    monkeypatch.setenv("FQ_RAY_IP", HEAD)
    program = _program()
    monkeypatch.setattr(program, "AUTHORITY", source)
    monkeypatch.setattr(program, "PLACE", place)
    program.main()
    return place


@pytest.mark.parametrize("name", ["10.1.2.3", "127.0.0.1", "localhost", HEAD])
def test_a_pods_certificate_is_good_for_its_address_and_its_heads_name_on_both_ends(drawn: Path, name: str):
    server = _context(drawn, ssl.PROTOCOL_TLS_SERVER)
    ours, theirs = socket.socketpair()
    answering = threading.Thread(target=_greet, args=(server, theirs))
    answering.start()
    with _context(drawn, ssl.PROTOCOL_TLS_CLIENT).wrap_socket(ours, server_hostname=name) as spoken:
        assert json.loads(spoken.recv(100)) == {"subject": [[["commonName", "ray"]]]}
    answering.join()


def _context(folder: Path, kind: int) -> ssl.SSLContext:
    context = ssl.SSLContext(kind)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_a_pod_of_another_authority_does_not_trust_it(drawn: Path, tmp_path: Path):
    keys.certificate("other").write(tmp_path, "other")
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.load_verify_locations(tmp_path / "other.crt")
    ours, theirs = socket.socketpair()
    answering = threading.Thread(target=_refuse, args=(_context(drawn, ssl.PROTOCOL_TLS_SERVER), theirs))
    answering.start()
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.wrap_socket(ours, server_hostname=HEAD)
    ours.close()
    answering.join()


def test_only_the_pod_itself_may_read_its_key(drawn: Path):
    assert (drawn / "tls.key").stat().st_mode & 0o777 == 0o400


def _greet(context: ssl.SSLContext, end: socket.socket) -> None:
    end.settimeout(10)
    with context.wrap_socket(end, server_side=True) as spoken:
        peer = spoken.getpeercert() or {}
        spoken.sendall(json.dumps({"subject": peer.get("subject")}).encode())


def _refuse(context: ssl.SSLContext, end: socket.socket) -> None:
    end.settimeout(10)
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(end, server_side=True)
    end.close()


def _program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ray_certificate", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
