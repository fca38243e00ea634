"""Oracle's places for tokens: instance metadata, federation, the token endpoint of OKE; and the tokens they give.

Rule 1. A token says whose it is and which key it was given for; a request that is signed by another key is refused.

Sources: docs.oracle.com, Calling Services from an Instance; oci 2.189.0, federation_client.py (its requests)."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

import msgspec

from sandbox import _oci_demo as demo
from sandbox._oci_signature import BadSignature, PublicKey, read_public_key, verify
from sandbox.cloud import json_reply
from sandbox.site import Site
from sandbox.types import Json, Refusal, Reply, Request

LIFE_S = 1200
METADATA = "/opc/v2"
FEDERATION = "/v1/x509"
WORKLOAD = "/resourcePrincipalSessionTokens"
RESOURCE_TOKEN = "/20180711/resourcePrincipalToken"  # noqa: S105  (a path)
RESOURCE_SESSION = "/v1/resourcePrincipalSessionToken"
RESOURCE = "ocid1.resource.oc1.us-chicago-1.sandbox"
RESOURCE_KEYS = (
    f"resource/v2.1/{RESOURCE}",
    *(f"resource/v{version}/{demo.TENANCY}/{RESOURCE}" for version in ("2.1.1", "2.1.2")),
)


def _pem(kind: str, body: str) -> str:
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""])


_DOCUMENTS: Mapping[str, str] = {
    "/identity/cert.pem": _pem("CERTIFICATE", demo.INSTANCE_CERTIFICATE),
    "/identity/key.pem": _pem("PRIVATE KEY", demo.INSTANCE_KEY),
    "/identity/intermediate.pem": _pem("CERTIFICATE", demo.INTERMEDIATE_CERTIFICATE),
    "/instance/region": demo.REGION,
    "/instance/id": "ocid1.instance.oc1.us-chicago-1.sandbox",
}


def metadata(request: Request, site: Site) -> Reply:
    """GET /opc/v2/…: only with `Authorization: Bearer Oracle`, as version 2 wants it."""
    text = _DOCUMENTS.get(request.path.removeprefix(METADATA))
    if request.headers.get("authorization") != "Bearer Oracle":
        raise Refusal(401, "Unauthorized")
    if text is None:
        raise Refusal(404, "Not Found")
    return Reply(headers=[("content-type", "text/plain")], body=text.encode())


def federate(request: Request, site: Site) -> Reply:
    """POST /v1/x509: an instance's certificate, signed for by its key, for a token of the public key it sends."""

    def key_of(key_id: str) -> PublicKey:
        if key_id != f"{demo.TENANCY}/fed-x509/{demo.INSTANCE_FINGERPRINT}":
            raise BadSignature("another instance")
        return PublicKey(demo.INSTANCE_MODULUS, demo.EXPONENT)

    try:
        verify(request, key_of, site.wall(), required=("date", "(request-target)"))
        body = _object(request.body)
        if body.get("certificate") != demo.INSTANCE_CERTIFICATE:
            raise BadSignature("another certificate")
        if body.get("intermediateCertificates") != [demo.INTERMEDIATE_CERTIFICATE]:
            raise BadSignature("another authority")
        return json_reply({"token": issue(_public_key(body.get("publicKey")), "instance", site.wall())})
    except BadSignature as error:
        raise not_authenticated() from error


def exchange(request: Request, site: Site) -> Reply:
    """POST /resourcePrincipalSessionTokens: a pod's token of Kubernetes for a session token, in base64."""
    if request.headers.get("authorization") != f"Bearer {demo.SERVICE_ACCOUNT_TOKEN}":
        raise Refusal(403, "forbidden")
    try:
        token = issue(_public_key(_object(request.body).get("podKey")), "workload", site.wall())
    except BadSignature as error:
        raise Refusal(400, "bad podKey") from error
    answer = base64.b64encode(msgspec.json.encode({"token": f"ST${token}"}))
    return Reply(headers=[("content-type", "application/json")], body=answer)


def resource_token(request: Request, site: Site) -> Reply:
    """GET of a resource's token, signed by the resource itself (version 2.1 and on) or by its instance (1.1)."""
    asked = _signed_by_resource(request, site)
    if not request.path.endswith(f"/{RESOURCE}") or ("V2" in request.path) != asked.startswith("resource/"):
        raise not_authenticated()
    tokens = {kind: issue(PublicKey(demo.API_MODULUS, demo.EXPONENT), kind, site.wall()) for kind in ("rpt", "spst")}
    return json_reply({"resourcePrincipalToken": tokens["rpt"], "servicePrincipalSessionToken": tokens["spst"]})


def resource_session(request: Request, site: Site) -> Reply:
    """POST /v1/resourcePrincipalSessionToken: both tokens, signed for again, for a token of the key it sends."""
    _signed_by_resource(request, site)
    try:
        body = _object(request.body)
        for name in ("resourcePrincipalToken", "servicePrincipalSessionToken"):
            key_of_token(str(body.get(name)), site.wall())
        return json_reply({"token": issue(_public_key(body.get("sessionPublicKey")), "resource", site.wall())})
    except BadSignature as error:
        raise not_authenticated() from error


def _signed_by_resource(request: Request, site: Site) -> str:
    """The key id that it is signed with."""

    def key_of(key_id: str) -> PublicKey:
        if key_id.startswith("ST$"):
            return key_of_token(key_id[3:], site.wall())
        if key_id not in RESOURCE_KEYS:
            raise BadSignature("another resource")
        return PublicKey(demo.API_MODULUS, demo.EXPONENT)

    try:
        return verify(request, key_of, site.wall())
    except BadSignature as error:
        raise not_authenticated() from error


def not_authenticated() -> Refusal:
    message = "The required information to complete authentication was not provided or was incorrect."
    return Refusal(401, {"code": "NotAuthenticated", "message": message})


def _object(raw: bytes) -> dict[str, Json]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Json])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadSignature("the body cannot be read") from error


def _public_key(text: Json) -> PublicKey:
    try:
        return read_public_key(base64.b64decode(text, validate=True))
    except (TypeError, ValueError, binascii.Error) as error:
        raise BadSignature("no public key") from error


def issue(key: PublicKey, kind: str, wall_now: float) -> str:
    """A token in the form of a JWT."""
    claims = {
        "sub": f"ocid1.{kind}.oc1.us-chicago-1.sandbox",
        "res_tenant": demo.TENANCY,
        "iat": int(wall_now),
        "exp": int(wall_now) + LIFE_S,
        "jwk": {"kty": "RSA", "n": f"{key.modulus:x}", "e": f"{key.exponent:x}"},
    }
    signed = f"{_packed({'alg': 'HS256', 'typ': 'JWT'})}.{_packed(claims)}"
    return f"{signed}.{_mac(signed)}"


def key_of_token(token: str, wall_now: float) -> PublicKey:
    """The key that a token of ours was given for. Raises BadSignature."""
    signed, _, mac = token.rpartition(".")
    if not hmac.compare_digest(_mac(signed).encode(), mac.encode()):
        raise BadSignature("not a token of ours")
    payload = signed.partition(".")[2]
    claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    if claims["exp"] <= wall_now:
        raise BadSignature("the token has expired")
    return PublicKey(int(claims["jwk"]["n"], 16), int(claims["jwk"]["e"], 16))


def _packed(value: Json) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()


def _mac(signed: str) -> str:
    digest = hmac.digest(demo.TOKEN_SECRET, signed.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
