"""Resource principals of Oracle's older forms: a service's word on what this is, exchanged for a session token.

Version 1.1: asked for as the instance, for a key made here. 2.1, 2.1.1 and 2.1.2: as the resource itself, with its own
key. 2.2 is in oci.py, for it needs no exchange; 3.0 (nested) is not offered.

Sources: oci 2.189.0: resource_principals_federation_signer.py, ephemeral_resource_principals_v21_signer.py,
key_pair_signer.py, rpt_path_providers.py. Run against the sandbox only."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.account import USUAL, Reach
from gateway.errors import UpstreamError
from providers.credentials.oci import Identity, Source, load_key, signed, signed_get
from providers.credentials.oci_tokens import Refreshed, asked, lease, new_key, place, public_half, read_token
from providers.credentials.tokens import Lease

VERSIONS = ("1.1", "2.1", "2.1.1", "2.1.2")
SESSION_PATH = "/v1/resourcePrincipalSessionToken"
PREFIX = "OCI_RESOURCE_PRINCIPAL_"
_encode = msgspec.json.Encoder().encode


class _Told(msgspec.Struct, rename="camel"):
    resource_principal_token: str
    service_principal_session_token: str


class Places(NamedTuple):
    """Where the resource's token is had (with its path) and where the session's. `context` is of version 2.1.2."""

    token_url: str
    path: str
    session_url: str
    context: str | None = None


class Way(NamedTuple):
    """Who asks, and whether the session is for that one's own key; else one is made for each token."""

    asker: Callable[[], Awaitable[Identity]]
    own_key: bool
    instance: Source | None = None


class ResourcePrincipal(Refreshed):
    """A Source of oci.py."""

    def __init__(
        self,
        places: Places,
        way: Way,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        reach: Reach = USUAL,
    ) -> None:
        self._where, self._way = places, way
        self._token = place(places.token_url, reach(places.token_url), clock)
        self._session = place(places.session_url, reach(places.session_url), clock)
        super().__init__(clock, wall, [self._token, self._session])

    async def _fetch(self) -> Lease[Identity]:
        who = await self._way.asker()
        told = await self._told(who)
        if self._way.own_key:
            key, public = who.key, public_half(who.key)
        else:
            key, public = await asyncio.to_thread(new_key)
        body = _encode(
            {
                "resourcePrincipalToken": told.resource_principal_token,
                "servicePrincipalSessionToken": told.service_principal_session_token,
                "sessionPublicKey": public,
            }
        )
        path = self._session.path + SESSION_PATH
        headers = signed(who, path, self._session.host, body, self._wall())
        return lease(read_token(await asked(self._session, "POST", path, headers, body)), key, self._wall())

    async def _told(self, who: Identity) -> _Told:
        path = self._token.path + self._where.path
        headers = signed_get(who, path, self._token.host, self._wall())
        if self._where.context:
            headers.append(("security-context", self._where.context))
        answer = await asked(self._token, "GET", path, headers)
        try:
            return msgspec.json.decode(answer, type=_Told)
        except msgspec.MsgspecError as error:
            text = "its credential's source gave an answer that cannot be read"
            raise UpstreamError("status", text, status=401) from error

    async def aclose(self) -> None:
        await super().aclose()
        if self._way.instance is not None:
            await self._way.instance.aclose()


def of_resource(env: Mapping[str, str], clock: Callable[[], float], reach: Reach) -> ResourcePrincipal:
    """Version 2.1, 2.1.1 or 2.1.2. Raises ValueError that names the variable which is missing or wrong."""
    version, id_ = env[f"{PREFIX}VERSION"], _needed(env, "RESOURCE_ID")
    key_id = f"resource/v2.1/{id_}"
    if version != "2.1":
        key_id = f"resource/v{version}/{_needed(env, 'TENANCY_ID')}/{id_}"
    path = f"/20180711/resourcePrincipalTokenV2/{id_}"
    if version == "2.1.2":
        said = env.get(f"{PREFIX}RPT_PATH") or "/20180711/resourcePrincipalTokenV212"
        path = said.replace("{}", id_) if said.endswith("{}") else f"{said.rstrip('/')}/{id_}"
    read = _own_key(env)
    read()  # a bad one is refused before traffic

    async def asker() -> Identity:
        return Identity(key_id, await asyncio.to_thread(read))

    context = env.get(f"{PREFIX}SECURITY_CONTEXT") if version == "2.1.2" else None
    places = Places(_needed(env, "RPT_ENDPOINT"), path, _needed(env, "RPST_ENDPOINT"), context)
    return ResourcePrincipal(places, Way(asker, own_key=True), clock, reach=reach)


def of_instance(
    env: Mapping[str, str], instance: Source, auth_url: str, clock: Callable[[], float], reach: Reach
) -> ResourcePrincipal:
    """Version 1.1, asked for by the instance that it runs on. Raises ValueError that names what is missing."""
    path = (env.get(f"{PREFIX}RPT_PATH") or "/20180711/resourcePrincipalToken/{id}").replace(
        "{id}", _needed(env, "RPT_ID")
    )
    places = Places(_needed(env, "RPT_ENDPOINT"), path, env.get(f"{PREFIX}RPST_ENDPOINT") or auth_url)
    return ResourcePrincipal(places, Way(instance.get, own_key=False, instance=instance), clock, reach=reach)


def _needed(env: Mapping[str, str], name: str) -> str:
    found = env.get(PREFIX + name)
    if not found:
        raise ValueError(f"{PREFIX}{name} is not set")
    return found


def _own_key(env: Mapping[str, str]) -> Callable[[], rsa.RSAPrivateKey]:
    """The resource's key: a text, or a file that somebody keeps fresh."""
    pem, pass_phrase = _needed(env, "PRIVATE_PEM"), env.get(f"{PREFIX}PRIVATE_PEM_PASSPHRASE")

    def read() -> rsa.RSAPrivateKey:
        try:
            raw = Path(pem).read_bytes() if os.path.isabs(pem) else pem.encode()
            return load_key(raw, pass_phrase)
        except OSError as error:
            raise ValueError(f"{PREFIX}PRIVATE_PEM cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{PREFIX}PRIVATE_PEM {error}") from error

    return read
