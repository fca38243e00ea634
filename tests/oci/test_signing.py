"""Signatures: the same bytes as Oracle's own signer makes, and none that the sandbox should not take."""

import base64
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.credentials.oci import GENERIC_HEADERS, ApiKey, Identity, fingerprint_of, load_key, signed
from sandbox import _oci_demo as demo
from sandbox._oci_signature import BadSignature, PublicKey, parse, read_public_key, signing_string, verify
from sandbox.types import Request
from tests.oci.calls import PEM
from tests.oci.judge import GOLDEN, cases, signed_by_sdk

KEPT = json.loads(GOLDEN.read_text())
DEMO = ApiKey(demo.TENANCY, demo.USER, demo.FINGERPRINT, None, lambda: PEM).read()
TARGET, HOST, NOW = "/20231130/actions/chat", "127.0.0.1:9109", 1_763_820_000.0
PUBLIC = PublicKey(demo.API_MODULUS, demo.EXPONENT)


def ours(task: dict[str, Any]) -> dict[str, str]:
    identity = Identity(f"ST${task['token']}", DEMO.key) if task["token"] else DEMO
    return dict(signed(identity, task["target"], task["host"], task["body"].encode(), task["wall"]))


@pytest.mark.parametrize("kept", KEPT, ids=[f"{k['host'][:9]}-{len(k['body'])}" for k in KEPT])
def test_a_signature_is_byte_for_byte_that_of_oracles_signer(kept: dict[str, Any]) -> None:
    found = ours(kept)
    assert {name: kept["headers"][name] for name in found} == found
    assert kept["headers"]["host"] == kept["host"]


def test_oracles_signer_still_says_what_was_kept() -> None:
    asked = cases()
    assert [{name: kept[name] for name in task} for task, kept in zip(asked, KEPT, strict=True)] == asked
    assert signed_by_sdk(asked) == [kept["headers"] for kept in KEPT]


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 4_000_000_000))
def test_every_signature_is_good_by_another_library(body: bytes, wall: int) -> None:
    headers = dict(signed(DEMO, TARGET, HOST, body, wall))
    found = parse(headers["authorization"])
    request = request_of(headers, body)
    public = DEMO.key.public_key()
    public.verify(found.signature, signing_string(request, found.headers), padding.PKCS1v15(), hashes.SHA256())
    assert verify(request, lambda _: PUBLIC, wall) == DEMO.key_id


def request_of(headers: dict[str, str], body: bytes, **changes: Any) -> Request:
    sent = {"host": HOST, "content-length": str(len(body)), **headers}
    known: dict[str, Any] = {"method": "POST", "path": TARGET, "query": {}, "headers": sent}
    return Request(body=body, **(known | changes))


# ---------------------------------------------------------------------- the sandbox's verifier
def headers_for(body: bytes = b"{}", wall: float = NOW, generic: Any = GENERIC_HEADERS) -> dict[str, str]:
    return dict(signed(DEMO._replace(headers=generic), TARGET, HOST, body, wall))


def verdict(request: Request, wall: float = NOW) -> str:
    def key_of(key_id: str) -> PublicKey:
        if key_id != DEMO.key_id:
            raise BadSignature("nobody's key")
        return PUBLIC

    try:
        return verify(request, key_of, wall)
    except BadSignature as error:
        return f"refused: {error}"


def test_parameters_and_headers_may_stand_in_any_order() -> None:
    """As other clients write them: version first, another order of headers."""
    names = ["x-content-sha256", "content-type", "(request-target)", "date", "content-length", "host"]
    headers = headers_for()
    request = request_of(headers, b"{}")
    signature = DEMO.key.sign(signing_string(request, names), padding.PKCS1v15(), hashes.SHA256())
    request.headers["authorization"] = (  # type: ignore[index]
        f'Signature version="1",keyId="{DEMO.key_id}",algorithm="rsa-sha256",headers="{" ".join(names)}",'
        f'signature="{base64.b64encode(signature).decode()}"'
    )
    assert verdict(request) == DEMO.key_id


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("date", "Sat, 22 Nov 2025 14:00:01 GMT"),
        ("host", "elsewhere.test"),
        ("content-type", "text/plain"),
        ("content-length", "3"),
        ("x-content-sha256", "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4p="),
    ],
)
def test_a_changed_header_is_refused(name: str, value: str) -> None:
    assert verdict(request_of({**headers_for(), name: value}, b"{}")).startswith("refused")


@pytest.mark.parametrize(
    "changes", [{"body": b"{ }"}, {"body": b"[]"}, {"path": "/other"}, {"method": "PUT"}, {"query": {"a": "b"}}]
)
def test_a_changed_request_is_refused(changes: dict[str, Any]) -> None:
    assert verdict(request_of(headers_for(), **({"body": b"{}"} | changes))).startswith("refused")


@pytest.mark.parametrize(("late_s", "good"), [(0, True), (299, True), (-299, True), (301, False), (-301, False)])
def test_a_date_is_good_for_five_minutes(late_s: float, good: bool) -> None:
    assert (verdict(request_of(headers_for(), b"{}"), NOW + late_s) == DEMO.key_id) == good


@pytest.mark.parametrize("generic", [("date", "(request-target)"), ("(request-target)", "host"), ("date", "host")])
def test_what_must_be_signed_may_not_be_left_out(generic: Any) -> None:
    assert "not signed" in verdict(request_of(headers_for(generic=generic), b"{}"))


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer x",
        "Signature",
        'Signature keyId="a"',
        'Signature version="1",algorithm="hmac-sha256",keyId="a",headers="date",signature="AA=="',
        'Signature version="1",algorithm="rsa-sha256",keyId="a",headers="date",signature="!!"',
        'Signature version="1",version="1",algorithm="rsa-sha256",keyId="a",headers="date",signature="AA=="',
    ],
)
def test_what_is_no_signature_is_refused(authorization: str) -> None:
    assert verdict(request_of({**headers_for(), "authorization": authorization}, b"{}")).startswith("refused")


def test_another_key_or_a_forged_padding_is_refused() -> None:
    other = rsa.generate_private_key(65537, 2048)
    forged = dict(signed(Identity(DEMO.key_id, other), TARGET, HOST, b"{}", NOW))
    assert verdict(request_of(forged, b"{}")).startswith("refused")
    for signature in (b"\x00" * 256, b"\x00" * 255 + b"\x01", b"\xff" * 256, b"", b"\x00" * 257):
        headers = headers_for()
        start = headers["authorization"].index('signature="') + 11
        end = headers["authorization"].index('"', start)
        text = base64.b64encode(signature).decode()
        headers["authorization"] = headers["authorization"][:start] + text + headers["authorization"][end:]
        assert verdict(request_of(headers, b"{}")).startswith("refused")


def test_the_sandbox_reads_public_keys_as_another_library_writes_them() -> None:
    for bits in (1024, 2048):
        key = rsa.generate_private_key(65537, bits)
        public = key.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        assert read_public_key(der) == PublicKey(public.public_numbers().n, 65537)
        for cut in range(len(der)):
            with pytest.raises(BadSignature):
                read_public_key(der[:cut])
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(BadSignature):
        read_public_key(other.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


# ---------------------------------------------------------------------- keys
def encrypted(pass_phrase: bytes) -> bytes:
    return DEMO.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(pass_phrase),
    )


def test_keys_in_every_form_that_people_have_them() -> None:
    traditional = DEMO.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    forms = [
        PEM.encode(),
        traditional,
        PEM.replace("\n", "\\n").encode(),
        PEM.replace("\n", "\r\n").encode(),
        demo.PRIVATE_KEY.encode(),
        PEM.encode() + b"OCI_API_KEY\n",
    ]
    for form in forms:
        assert load_key(form, None).private_numbers() == DEMO.key.private_numbers()
    assert load_key(encrypted(b"secret"), "secret").private_numbers() == DEMO.key.private_numbers()
    assert load_key(PEM.encode(), "not needed").private_numbers() == DEMO.key.private_numbers()


@pytest.mark.parametrize(
    ("pem", "pass_phrase", "why"),
    [
        (encrypted(b"secret"), None, "is encrypted: say its 'pass_phrase'"),
        (encrypted(b"secret"), "hunter2", "its pass phrase is another"),
        (b"", None, "no private key"),
        (b"hello", None, "no private key"),
        (PEM.replace("PRIVATE", "PUBLIC").encode(), None, "no private key"),
    ],
)
def test_a_key_that_cannot_be_used_is_told_without_showing_any_of_it(
    pem: bytes, pass_phrase: str | None, why: str
) -> None:
    with pytest.raises(ValueError, match=why) as error:
        load_key(pem, pass_phrase)
    assert "hunter2" not in str(error.value)
    assert demo.PRIVATE_KEY[40:60] not in str(error.value)


def test_only_rsa_keys_sign_for_oracle() -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ValueError, match="not an RSA key"):
        load_key(pem, None)


def test_the_fingerprint_is_found_and_a_wrong_one_is_told() -> None:
    assert fingerprint_of(DEMO.key) == demo.FINGERPRINT
    assert ApiKey("t", "u", None, None, lambda: PEM).read().key_id == f"t/u/{demo.FINGERPRINT}"
    with pytest.raises(ValueError, match="'fingerprint' aa:bb is not that of the key"):
        ApiKey("t", "u", "aa:bb", None, lambda: PEM).read()


def test_the_library_that_judges_can_say_no() -> None:
    with pytest.raises(InvalidSignature):
        DEMO.key.public_key().verify(b"x" * 256, b"y", padding.PKCS1v15(), hashes.SHA256())
