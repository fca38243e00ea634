"""Checks an Oracle request signature over the raw request, by the rules of the draft alone; knows no client of it.

Rule 1. What is signed is what the `headers` value lists, in its order; the parameters may stand in any order.
Rule 2. A signature that leaves out what Oracle demands, is old, or is of another body is no signature.

Sources: docs.oracle.com, Request Signatures; draft-cavage-http-signatures-08; RFC 8017, 8.2.2 (RSASSA-PKCS1-v1_5)."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urlencode

from sandbox.types import Request

SKEW_S = 300.0
"""Oracle takes a date of at most five minutes from its own."""
_REQUIRED = ("date", "(request-target)", "host")
_REQUIRED_WITH_BODY = ("content-length", "content-type", "x-content-sha256")
_PARAMETER = re.compile(r'\s*([A-Za-z]+)="([^"]*)"\s*(?:,|$)')
_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


class PublicKey(NamedTuple):
    """RSA: modulus and exponent."""

    modulus: int
    exponent: int


class BadSignature(Exception):
    """Why a request is not who it says it is; Oracle itself tells the caller nothing of it."""


class Signature(NamedTuple):
    key_id: str
    headers: list[str]
    signature: bytes


def parse(authorization: str) -> Signature:
    """The parameters of an `Authorization: Signature …` header."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() != "signature":
        raise BadSignature("not a signature")
    found: dict[str, str] = {}
    place = 0
    while place < len(rest):
        match = _PARAMETER.match(rest, place)
        if match is None or match[1] in found:
            raise BadSignature("parameters cannot be read")
        found[match[1]] = match[2]
        place = match.end()
    if found.get("algorithm") != "rsa-sha256" or found.get("version") != "1":
        raise BadSignature("algorithm or version")
    try:
        return Signature(
            found["keyId"], found["headers"].split(" "), base64.b64decode(found["signature"], validate=True)
        )
    except (KeyError, binascii.Error) as error:
        raise BadSignature("a parameter is missing") from error


def verify(
    request: Request,
    key_of: Callable[[str], PublicKey],
    wall_now: float,
    required: tuple[str, ...] = _REQUIRED,
) -> str:
    """The key id of a request that is signed as it must be. Raises BadSignature."""
    found = parse(request.headers.get("authorization", ""))
    needed = required + (_REQUIRED_WITH_BODY if request.method in ("POST", "PUT", "PATCH") else ())
    if missing := [name for name in needed if name not in found.headers]:
        raise BadSignature(f"not signed: {', '.join(missing)}")
    _check_date(request, wall_now)
    if request.method in ("POST", "PUT", "PATCH"):
        _check_body(request)
    key = key_of(found.key_id)
    if not _genuine(key, found.signature, signing_string(request, found.headers)):
        raise BadSignature("the signature is not of this request")
    return found.key_id


def signing_string(request: Request, names: list[str]) -> bytes:
    """One `name: value` a line, in the order listed."""
    lines = []
    for name in names:
        if name == "(request-target)":
            query = f"?{urlencode(request.query)}" if request.query else ""
            lines.append(f"{name}: {request.method.lower()} {request.path}{query}")
        elif name in request.headers:
            lines.append(f"{name}: {request.headers[name]}")
        else:
            raise BadSignature(f"signed but not sent: {name}")
    return "\n".join(lines).encode("latin-1", "replace")


def _check_date(request: Request, wall_now: float) -> None:
    try:
        sent = parsedate_to_datetime(request.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise BadSignature("no date") from error
    if abs(sent - wall_now) > SKEW_S:
        raise BadSignature("the date is too far from now")


def _check_body(request: Request) -> None:
    digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
    if request.headers.get("x-content-sha256") != digest:
        raise BadSignature("x-content-sha256 is of another body")
    if request.headers.get("content-length") != str(len(request.body)):
        raise BadSignature("content-length is of another body")


def _genuine(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """RSASSA-PKCS1-v1_5 with SHA-256: the padded digest is built and compared whole, never picked apart."""
    size = (key.modulus.bit_length() + 7) // 8
    number = int.from_bytes(signature, "big")
    if len(signature) != size or number >= key.modulus:
        return False
    info = _SHA256_INFO + hashlib.sha256(message).digest()
    padded = b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
    return pow(number, key.exponent, key.modulus).to_bytes(size, "big") == padded


def read_public_key(der: bytes) -> PublicKey:
    """An RSA key of a SubjectPublicKeyInfo (RFC 5280, 4.1.2.7). Raises BadSignature."""
    try:
        body = _inside(der, 0x30)  # SubjectPublicKeyInfo
        algorithm, rest = _next(body)
        bits = _inside(rest, 0x03)  # subjectPublicKey, with its count of unused bits
        numbers = _inside(bits[1:], 0x30)
        modulus, rest = _next(numbers)
        exponent, _ = _next(rest)
    except IndexError as error:
        raise BadSignature("no public key") from error
    if bytes.fromhex("2a864886f70d010101") not in algorithm:
        raise BadSignature("not an RSA key")
    return PublicKey(int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big"))


def _inside(der: bytes, tag: int) -> bytes:
    if der[0] != tag:
        raise IndexError
    return _next(der)[0]


def _next(der: bytes) -> tuple[bytes, bytes]:
    """The content of the first element, and what follows it (X.690, 8.1)."""
    length, start = der[1], 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(der[2 : 2 + count], "big"), 2 + count
    if len(der) < start + length:
        raise IndexError
    return der[start : start + length], der[start + length :]
