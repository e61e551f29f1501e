"""JWTs at a locked endpoint: what is accepted, and the ways in which they are forged."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import endpoints
import grpc
import keys
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from test_security_tokens import OPEN, TYPED, bearing, outcome

from services import errors, jwt, security, tokens
from services.options import Options

OK, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(scope="module")
def privates() -> dict[str, Any]:
    """The issuer's keys, by kid."""
    return {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory, privates: dict[str, Any]) -> Iterator[grpc.Channel]:
    folder = tmp_path_factory.mktemp("jwt")
    (folder / "jwks.json").write_bytes(keys.jwks(**privates))
    options = {"jwks": folder / "jwks.json", "jwt_issuer": keys.ISSUER, "jwt_audience": keys.AUDIENCE}
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    with (
        endpoints.serving(models, folder / "metrics", **options) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        yield opened


@pytest.mark.parametrize("kid", ["rsa", "ec", "ed"])
def test_a_token_signed_by_each_kind_of_key_is_accepted(channel: grpc.Channel, privates: dict[str, Any], kid: str):
    token = keys.token(privates[kid], kid, keys.claims())
    for _ in range(3):
        assert outcome(channel, TYPED, bearing(token))[0] is OK


@pytest.mark.parametrize(
    "permitting",
    [
        {"scope": "openid eagerly.v1.Sentiment/*"},
        {"scope": None, "permissions": ["eagerly.v1.Sentiment/Analyze"]},
        {"scope": "openid", "permissions": ["eagerly.v1.Sentiment/*", 7]},
    ],
)
def test_permissions_come_from_scope_or_permissions(
    channel: grpc.Channel, privates: dict[str, Any], permitting: dict[str, Any]
):
    token = keys.token(privates["ec"], "ec", keys.claims(**permitting))
    assert outcome(channel, TYPED, bearing(token))[0] is OK
    assert outcome(channel, OPEN, bearing(token))[0] is grpc.StatusCode.PERMISSION_DENIED


def test_a_token_that_permits_nothing_opens_nothing(channel: grpc.Channel, privates: dict[str, Any]):
    for scope in (None, "", 7, ["*"]):
        token = keys.token(privates["ec"], "ec", keys.claims(scope=scope))
        assert outcome(channel, TYPED, bearing(token))[0] is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"exp": 1_300_819_380}, "expired"),
        ({"exp": None}, "has no exp"),
        ({"exp": "tomorrow"}, "exp is no time"),
        ({"exp": float("inf")}, "exp is no time"),
        ({"exp": float("nan")}, "exp is no time"),
        ({"exp": True}, "exp is no time"),
        ({"nbf": 2**40}, "not valid yet"),
        ({"iss": "https://issuer.example.evil"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"aud": "another"}, "another audience"),
        ({"aud": ["another", "eagerly2"]}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"aud": {"eagerly": 1}}, "another audience"),
    ],
)
def test_claims_that_do_not_hold_are_named(
    channel: grpc.Channel, privates: dict[str, Any], changed: dict[str, Any], says: str
):
    code, told = outcome(channel, TYPED, bearing(keys.token(privates["ed"], "ed", keys.claims(**changed))))
    assert code is UNAUTHENTICATED
    assert says in told


def test_clocks_may_be_a_little_apart(channel: grpc.Channel, privates: dict[str, Any]):
    now = time.time()
    for times in ({"exp": now - 10}, {"nbf": now + 10}, {"aud": ["another", keys.AUDIENCE]}):
        assert outcome(channel, TYPED, bearing(keys.token(privates["ed"], "ed", keys.claims(**times))))[0] is OK


def with_payload_of(token: str, other: str) -> str:
    head, _, signature = token.split(".")
    return ".".join((head, other.split(".")[1], signature))


FORGED: dict[str, Callable[[dict[str, Any]], str]] = {
    "alg none, unsigned": lambda own: keys.token(None, "rsa", keys.claims(), alg="none") + "AA",
    "alg none, no signature at all": lambda own: keys.token(None, "rsa", keys.claims(), alg="none"),
    "alg None": lambda own: keys.token(own["rsa"], "rsa", keys.claims(), alg="None"),
    "no alg": lambda own: keys.token(own["rsa"], "rsa", keys.claims(), alg=None),
    "alg is a list": lambda own: keys.token(own["rsa"], "rsa", keys.claims(), alg=["RS256"]),
    "HS256 with the public key": lambda own: keys.token(keys.public_pem(own["rsa"]), "rsa", keys.claims(), alg="HS256"),
    "HS256 with an empty secret": lambda own: keys.token(b"0", "rsa", keys.claims(), alg="HS256"),
    "RS256 with an EC key": lambda own: keys.token(own["ec"], "ec", keys.claims(), alg="RS256"),
    "kid of another key": lambda own: keys.token(own["ec"], "ed", keys.claims()),
    "kid of another key of its kind": lambda own: keys.token(
        rsa.generate_private_key(65537, 2048), "rsa", keys.claims()
    ),
    "unknown kid": lambda own: keys.token(own["ec"], "../../ec", keys.claims()),
    "kid is no text": lambda own: keys.token(own["ec"], {"ec": 1}, keys.claims()),
    "own key in the header": lambda own: keys.token(
        stranger := ec.generate_private_key(ec.SECP256R1()), "ec", keys.claims(), jwk=keys.jwk(stranger, "ec")
    ),
    "critical extension": lambda own: keys.token(own["ec"], "ec", keys.claims(), crit=["b64"], b64=False),
    "other claims under the signature": lambda own: with_payload_of(
        keys.token(own["ec"], "ec", keys.claims(scope="")), keys.token(own["ec"], "ec", keys.claims())
    ),
    "zero signature": lambda own: keys.token(own["ec"], "ec", keys.claims()).rpartition(".")[0] + "." + "A" * 86,
    "DER signature": lambda own: keys.token(own["ec"], "ec", keys.claims()) + "AAAA",
    "header is no object": lambda own: f"{keys.encode(b'[]')}.{keys.encode(b'{}')}.AAAA",
    "header is nested too deeply": lambda own: f"{keys.encode(b'[' * 4000)}.{keys.encode(b'{}')}.AAAA",
    "header is no base64": lambda own: "a.b.c",
    "header is no UTF-8": lambda own: f"{keys.encode(bytes([255, 254]))}.e30.AAAA",
    "four parts": lambda own: keys.token(own["ec"], "ec", keys.claims()) + ".AAAA",
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_token_is_refused_without_a_hint_how(channel: grpc.Channel, privates: dict[str, Any], forgery: str):
    token = FORGED[forgery](privates)
    code, told = outcome(channel, TYPED, bearing(token))
    assert code is UNAUTHENTICATED
    assert told in (
        "the JWT is not one that this endpoint takes: no key of its JWKS has signed it",
        "the bearer token is not one that this endpoint takes",
    )


def test_signed_claims_that_are_no_object_are_refused(channel: grpc.Channel, privates: dict[str, Any]):
    contents: Any = ["*"]
    assert outcome(channel, TYPED, bearing(keys.token(privates["ed"], "ed", contents)))[0] is UNAUTHENTICATED


def test_the_example_of_rfc_7515_is_verified_and_found_expired():
    key = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    head = "eyJhbGciOiJFUzI1NiJ9"
    body = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    found = jwt.Jwks("--jwks", "joe", "eagerly", json.dumps({"keys": [key]}).encode())
    with pytest.raises(errors.Unauthenticated, match="expired"):
        found.grant(f"{head}.{body}.{signature}")
    with pytest.raises(errors.Unauthenticated, match="no key of its JWKS has signed it"):
        found.grant(f"{head}.{body}.{signature[:-4]}AAAA")


def test_a_token_without_kid_needs_a_set_with_one_key_that_fits(privates: dict[str, Any]):
    token = keys.token(privates["ec"], None, keys.claims())
    one = jwt.Jwks("--jwks", keys.ISSUER, keys.AUDIENCE, keys.jwks(ec=privates["ec"], rsa=privates["rsa"]))
    assert one.grant(token).name == "ann"
    other = ec.generate_private_key(ec.SECP256R1())
    two = jwt.Jwks("--jwks", keys.ISSUER, keys.AUDIENCE, keys.jwks(ec=privates["ec"], other=other))
    with pytest.raises(errors.Unauthenticated):
        two.grant(token)


def test_a_token_that_was_good_ends_when_it_expires(tmp_path: Path, privates: dict[str, Any]):
    (tmp_path / "jwks").write_bytes(keys.jwks(ed=privates["ed"]))
    options = {"jwks": tmp_path / "jwks", "jwt_issuer": keys.ISSUER, "jwt_audience": keys.AUDIENCE}
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    token = keys.token(privates["ed"], "ed", keys.claims(exp=time.time() - jwt.LEEWAY_S + 2))
    with (
        endpoints.serving(models, tmp_path / "metrics", **options) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        assert outcome(opened, TYPED, bearing(token))[0] is OK
        time.sleep(2.1)
        code, told = outcome(opened, TYPED, bearing(token))
    assert code is UNAUTHENTICATED
    assert "expired" in told


def test_a_key_that_is_taken_out_ends_its_tokens_though_they_were_good(tmp_path: Path, privates: dict[str, Any]):
    file, listed = tmp_path / "jwks", tmp_path / "tokens"
    file.write_bytes(keys.jwks(ed=privates["ed"]))
    plain, line = tokens.issue("plain", ["*"])
    listed.write_text(line)
    options = {"jwks": file, "jwt_issuer": keys.ISSUER, "jwt_audience": keys.AUDIENCE, "tokens": listed}
    models = [endpoints.loaded("sentiment", endpoints.Gate())]
    signed = [keys.token(privates[kid], kid, keys.claims()) for kid in ("ed", "ec")]
    with (
        endpoints.serving(models, tmp_path / "metrics", **options) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        assert [outcome(opened, TYPED, bearing(token))[0] for token in signed] == [OK, UNAUTHENTICATED]
        file.write_bytes(keys.jwks(ec=privates["ec"]))
        end = time.monotonic() + 10
        while outcome(opened, TYPED, bearing(signed[0]))[0] is OK and time.monotonic() < end:
            time.sleep(0.1)
        assert [outcome(opened, TYPED, bearing(token))[0] for token in signed] == [UNAUTHENTICATED, OK]
        assert outcome(opened, TYPED, bearing(plain))[0] is OK


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("nothing", "is no JWKS"),
        ("[]", "is no JWKS"),
        ('{"keys": 7}', "is no JWKS"),
        ('{"keys": []}', "holds no key to verify with"),
        ('{"keys": [{"kty": "oct", "k": "AAAA"}]}', "holds a secret key"),
        ('{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "d": "AAAA"}]}', "holds a secret key"),
        ('{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}]}', "holds a malformed key"),
        ('{"keys": [{"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}]}', "holds a malformed key"),
        ('{"keys": [{"kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA"}]}', "holds no key to verify with"),
    ],
)
def test_a_bad_jwks_is_refused_at_the_start(tmp_path: Path, content: str, says: str):
    file = tmp_path / "jwks"
    file.write_text(content)
    with pytest.raises(ValueError, match=says):
        security.of(Options(jwks=file, jwt_issuer=keys.ISSUER, jwt_audience=keys.AUDIENCE))


def test_short_rsa_keys_and_two_keys_of_one_name_are_refused(tmp_path: Path, privates: dict[str, Any]):
    short = keys.jwks(weak=rsa.generate_private_key(65537, 1024))
    twice = json.dumps({"keys": [keys.jwk(privates["ec"], "one"), keys.jwk(privates["ed"], "one")]}).encode()
    for content, says in ((short, "fewer than 2048 bits"), (twice, "two keys with the same kid")):
        with pytest.raises(ValueError, match=says):
            jwt.Jwks("--jwks", keys.ISSUER, keys.AUDIENCE, content)
