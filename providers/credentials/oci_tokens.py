"""Oracle's tokens for machines and pods: who an instance or a workload is, exchanged for a session token and its key.

Rule 1. Each new token has a new key, made here off the event loop; the key never leaves this process.
Rule 2. When to fetch, for whom, and what to do when that fails is tokens.py; here is only how.

Sources: oci 2.189.0: federation_client.py, instance_principals_security_token_signer.py,
oke_workload_identity_resource_principal_signer.py, security_token_container.py. Run against the sandbox only."""

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.account import TOKEN_TIMEOUTS, USUAL, Reach
from gateway.errors import UpstreamError
from gateway.transport.client import Client, Origin, request_head
from providers.credentials.oci import Identity, load_key, signed
from providers.credentials.tokens import Lease, Refresher

METADATA_URL = "http://169.254.169.254/opc/v2"
FEDERATION_PATH = "/v1/x509"
WORKLOAD_PORT = 12250
WORKLOAD_PATH = "/resourcePrincipalSessionTokens"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
KEY_BITS = 2048
FALLBACK_LIFE_S = 300.0
"""For a token that does not say when it ends."""
_encode = msgspec.json.Encoder().encode


class _Claims(msgspec.Struct):
    exp: float | None = None


class _Token(msgspec.Struct):
    token: str = ""


class Place(NamedTuple):
    """A server that gives tokens or certificates."""

    client: Client
    host: str
    path: str


def place(url: str, origin: Origin, clock: Callable[[], float]) -> Place:
    parts = urlsplit(url)
    return Place(Client(origin, clock), parts.netloc, parts.path.rstrip("/"))


async def asked(where: Place, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> bytes:
    """The body of a good answer. Raises UpstreamError that shows none of it."""
    head = request_head(method, path, where.host, [*headers, ("accept-encoding", "identity")], len(body))
    response = await where.client.request(head, body)
    try:
        answer = await response.read()
    finally:
        response.close()
    if response.status != 200:
        text = f"its credential's source {where.host}{path} answered {response.status}"
        raise UpstreamError("status", text, status=401)
    return answer


def life_s(token: str, wall_now: float) -> float:
    """Seconds that a JWT has left."""
    try:
        payload = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims)
    except (IndexError, ValueError, msgspec.MsgspecError):
        return FALLBACK_LIFE_S
    return FALLBACK_LIFE_S if claims.exp is None else claims.exp - wall_now


def _bare(pem: bytes) -> str:
    """What stands between the lines of a PEM."""
    return "".join(line for line in pem.decode("ascii").splitlines() if not line.startswith("-----"))


def new_key() -> tuple[rsa.RSAPrivateKey, str]:
    """A key, and its public half as Oracle wants to be told of it."""
    key = rsa.generate_private_key(65537, KEY_BITS)
    return key, public_half(key)


def public_half(key: rsa.RSAPrivateKey) -> str:
    return _bare(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def lease(token: str, key: rsa.RSAPrivateKey, wall_now: float) -> Lease[Identity]:
    token = token.removeprefix("ST$")
    if not token or not token.isascii() or not token.isprintable() or '"' in token:
        raise UpstreamError("status", "its credential's source gave no token", status=401)
    return Lease(Identity(f"ST${token}", key), life_s(token, wall_now))


class Refreshed:
    """What both kinds have in common: one refresher, and servers to let go of."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float], places: list[Place]) -> None:
        self._wall, self._places = wall, places
        self._refresher: Refresher[Identity] = Refresher(self._fetch, clock)

    async def _fetch(self) -> Lease[Identity]:
        raise NotImplementedError

    async def get(self) -> Identity:
        return await self._refresher.get()

    async def renew(self, refused: Identity) -> Identity | None:
        return await self._refresher.renew(refused)

    async def aclose(self) -> None:
        await self._refresher.aclose()
        for where in self._places:
            await where.client.aclose()


class InstancePrincipal(Refreshed):
    """A compute instance: its certificates from the metadata service, exchanged at the region's federation endpoint."""

    def __init__(
        self,
        metadata_url: str,
        federation_url: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        reach: Reach = USUAL,
    ) -> None:
        self._metadata = place(metadata_url, reach(metadata_url), clock)
        self._federation = place(federation_url, reach(federation_url), clock)
        super().__init__(clock, wall, [self._metadata, self._federation])

    async def _fetch(self) -> Lease[Identity]:
        leaf, leaf_key, intermediate = [
            await self._metadatum(name) for name in ("cert.pem", "key.pem", "intermediate.pem")
        ]
        key, public = await asyncio.to_thread(new_key)
        certificates = {
            "certificate": _bare(leaf),
            "publicKey": public,
            "intermediateCertificates": [_bare(intermediate)],
        }
        body = _encode(certificates)
        signer = _certified(leaf, leaf_key)
        path = self._federation.path + FEDERATION_PATH
        headers = signed(signer, path, self._federation.host, body, self._wall())
        answer = await asked(self._federation, "POST", path, headers, body)
        return lease(read_token(answer), key, self._wall())

    async def _metadatum(self, name: str) -> bytes:
        headers = [("authorization", "Bearer Oracle")]
        return await asked(self._metadata, "GET", f"{self._metadata.path}/identity/{name}", headers)


def _certified(leaf: bytes, leaf_key: bytes) -> Identity:
    """The instance as the federation endpoint knows it. Raises UpstreamError."""
    try:
        certificate = x509.load_pem_x509_certificate(leaf)
        key = load_key(leaf_key, None)
    except ValueError as error:
        text = "its credential's source gave a certificate or key that cannot be read"
        raise UpstreamError("status", text, status=401) from error
    fingerprint = certificate.fingerprint(hashes.SHA1()).hex(":").upper()  # noqa: S303  (the name of a certificate)
    return Identity(f"{_tenancy(certificate)}/fed-x509/{fingerprint}", key, ("date", "(request-target)"))


def _tenancy(certificate: x509.Certificate) -> str:
    values = [str(attribute.value) for attribute in certificate.subject]
    for prefix in ("opc-tenant:", "opc-identity:"):
        for value in values:
            if value.startswith(prefix):
                return value.removeprefix(prefix)
    raise UpstreamError("status", "its instance's certificate names no tenancy", status=401)


def read_token(answer: bytes) -> str:
    try:
        return msgspec.json.decode(answer, type=_Token).token
    except msgspec.MsgspecError as error:
        text = "its credential's source gave an answer that cannot be read"
        raise UpstreamError("status", text, status=401) from error


class WorkloadIdentity(Refreshed):
    """A pod on OKE: the token of its service account, exchanged at the cluster's own token endpoint.

    Not run against a cluster: port, path and the base64 around the answer are as Oracle's SDK has them."""

    def __init__(
        self,
        url: str,
        token_file: Path,
        ca_file: str | None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        parts = urlsplit(url)
        origin = Origin(url=f"{parts.scheme}://{parts.netloc}", ca_file=ca_file, timeouts=TOKEN_TIMEOUTS)  # no proxy
        self._endpoint, self._token_file = place(url, origin, clock), token_file
        super().__init__(clock, wall, [self._endpoint])

    async def _fetch(self) -> Lease[Identity]:
        try:
            account = (await asyncio.to_thread(self._token_file.read_text)).strip()
        except OSError as error:
            text = f"its service account's token {self._token_file} cannot be read: {error.strerror}"
            raise UpstreamError("status", text, status=401) from error
        key, public = await asyncio.to_thread(new_key)
        headers = [("authorization", f"Bearer {account}"), ("content-type", "application/json")]
        path = self._endpoint.path
        answer = await asked(self._endpoint, "POST", path, headers, _encode({"podKey": public}))
        try:
            decoded = base64.b64decode(answer.strip().strip(b'"'), validate=True)
        except ValueError as error:
            text = "its credential's source gave an answer that cannot be read"
            raise UpstreamError("status", text, status=401) from error
        return lease(read_token(decoded), key, self._wall())


def workload(url: str | None, env: Mapping[str, str], clock: Callable[[], float]) -> WorkloadIdentity:
    """A pod's identity, asked for at the cluster's own endpoint unless told. Raises ValueError outside a cluster."""
    host = env.get("KUBERNETES_SERVICE_HOST")
    if not url and not host:
        raise ValueError("KUBERNETES_SERVICE_HOST is not set: oke_workload_identity is for pods on OKE")
    if not url:
        host = f"[{host}]" if host and ":" in host else host
        url = f"https://{host}:{WORKLOAD_PORT}{WORKLOAD_PATH}"
    ca_file = env.get("OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH") or str(SERVICE_ACCOUNT / "ca.crt")
    try:
        return WorkloadIdentity(url, SERVICE_ACCOUNT / "token", ca_file if url.startswith("https:") else None, clock)
    except OSError as error:
        raise ValueError(f"the cluster's certificates {ca_file} cannot be read: {error.strerror}") from error
