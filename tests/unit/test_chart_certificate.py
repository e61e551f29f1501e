"""The certificate that the chart's hook draws: whom clients that hold an earlier ca.crt go on trusting."""

import datetime
import importlib.util
import socket
import ssl
import threading
from pathlib import Path
from types import ModuleType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

HOOK = Path(__file__).resolve().parents[2] / "helm" / "eagerly" / "files" / "make_secrets.py"
Held = dict[str, bytes]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The hook, for a certificate of one name."""
    monkeypatch.setenv("DNS_NAMES", '["localhost"]')
    spec = importlib.util.spec_from_file_location("make_secrets", HOOK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def earlier(hook: ModuleType, monkeypatch: pytest.MonkeyPatch, days: float, held: Held | None = None) -> Held:
    """What the hook made of a Secret that many days ago."""
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    with monkeypatch.context() as past:
        past.setattr(hook, "_now", lambda: then)
        return hook.tls("eagerly-tls", held)


def of_an_older_release(made: Held) -> Held:
    return {key: content for key, content in made.items() if key != "ca.key"}


def authorities(held: Held) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(held["ca.crt"])


def trusts(trusted: Held, shown: Held, folder: Path, name: str = "localhost") -> bool:
    """Whether a client with one Secret's ca.crt takes a server that shows another's certificate under a name."""
    for key in ("tls.crt", "tls.key"):
        (folder / key).write_bytes(shown[key])
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    client = ssl.create_default_context(cadata=trusted["ca.crt"].decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()
    answering = threading.Thread(target=_greet, args=(server, theirs))
    answering.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as spoken:
            return spoken.recv(5) == b"hello"
    except ssl.SSLCertVerificationError:
        return False
    finally:
        ours.close()
        answering.join()


def _greet(context: ssl.SSLContext, end: socket.socket) -> None:
    end.settimeout(10)
    try:
        with context.wrap_socket(end, server_side=True) as spoken:
            spoken.sendall(b"hello")
    except (ssl.SSLError, OSError):
        end.close()


def test_what_is_there_stays(hook: ModuleType, tmp_path: Path):
    made = hook.tls("eagerly-tls")
    assert set(made) == {"tls.crt", "tls.key", "ca.crt", "ca.key"}
    assert hook.tls("eagerly-tls", made) == made
    assert trusts(made, made, tmp_path)


def test_a_certificate_is_good_at_once_where_clocks_differ_by_minutes(hook: ModuleType):
    made, now = hook.tls("eagerly-tls"), datetime.datetime.now(datetime.UTC)
    for one in (*authorities(made), x509.load_pem_x509_certificate(made["tls.crt"])):
        assert now - one.not_valid_before_utc > datetime.timedelta(minutes=4)


def test_a_renewal_for_another_name_is_trusted_by_who_holds_the_old_authority(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = hook.tls("eagerly-tls")
    monkeypatch.setenv("DNS_NAMES", '["localhost", "another"]')
    after = hook.tls("eagerly-tls", before)
    assert not trusts(before, before, tmp_path, "another")
    assert trusts(before, after, tmp_path, "another")
    assert (after["ca.crt"], after["ca.key"]) == (before["ca.crt"], before["ca.key"])


def test_a_renewal_near_the_end_is_trusted_by_who_holds_the_old_authority(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = earlier(hook, monkeypatch, 340)
    after = hook.tls("eagerly-tls", before)
    assert after["tls.crt"] != before["tls.crt"] and after["ca.crt"] == before["ca.crt"]
    assert trusts(before, after, tmp_path)
    (authority,) = authorities(after)
    assert authority.not_valid_after_utc - authority.not_valid_before_utc > datetime.timedelta(days=3650)


def test_an_authority_near_its_end_hands_over_to_another_and_nobody_notices(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = earlier(hook, monkeypatch, 3650 - 300)
    after = hook.tls("eagerly-tls", before)
    new, old = authorities(after)
    assert old == authorities(before)[0]
    assert new.public_key() == load_pem_private_key(after["ca.key"], None).public_key()
    assert new.not_valid_after_utc - old.not_valid_after_utc > datetime.timedelta(days=3000)
    assert trusts(before, after, tmp_path) and trusts(after, after, tmp_path)
    assert hook.tls("eagerly-tls", after) == after

    monkeypatch.setenv("DNS_NAMES", '["localhost", "another"]')
    again = hook.tls("eagerly-tls", after)
    assert authorities(again) == [new, old]
    assert trusts(before, again, tmp_path, "another")


def test_an_authority_that_has_ended_is_no_longer_trusted_nor_brought_along(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = earlier(hook, monkeypatch, 4000)
    between = earlier(hook, monkeypatch, 360, before)
    after = hook.tls("eagerly-tls", between)
    assert len(authorities(between)) == 2
    assert authorities(after) == authorities(between)[:1]
    assert after["tls.crt"].count(b"BEGIN CERTIFICATE") == 1
    assert trusts(between, after, tmp_path)


def test_a_secret_of_an_older_release_keeps_its_certificate_until_it_must_be_renewed(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = of_an_older_release(hook.tls("eagerly-tls"))
    after = hook.tls("eagerly-tls", before)
    assert (after["tls.crt"], after["tls.key"]) == (before["tls.crt"], before["tls.key"])
    assert authorities(after)[1:] == authorities(before)
    assert trusts(before, after, tmp_path) and trusts(after, after, tmp_path)
    assert hook.tls("eagerly-tls", after) == after

    monkeypatch.setenv("DNS_NAMES", '["localhost", "another"]')
    renewed = hook.tls("eagerly-tls", after)
    assert renewed["ca.crt"] == after["ca.crt"]
    assert trusts(after, renewed, tmp_path, "another")


def test_a_secret_of_an_older_release_that_must_be_renewed_gets_one_new_authority_beside_the_old_one(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = of_an_older_release(earlier(hook, monkeypatch, 340))
    after = hook.tls("eagerly-tls", before)
    assert authorities(after)[1:] == authorities(before)
    assert trusts(after, before, tmp_path) and trusts(after, after, tmp_path)
    assert hook.tls("eagerly-tls", after) == after


def test_a_certificate_of_an_unknown_authority_is_left_alone(hook: ModuleType):
    made = {key: content for key, content in hook.tls("eagerly-tls").items() if not key.startswith("ca.")}
    assert hook.tls("eagerly-tls", made) == made
