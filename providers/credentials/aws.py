"""Whose AWS keys sign a request: the config's, or what AWS's own tools would find, kept fresh off the event loop.

Rule 1. botocore is imported only where its chain is needed, and runs in a thread.
Rule 2. What it raises is shown by name and place, never by its text: a text may hold what a helper program printed."""

import asyncio
import contextlib
import importlib.util
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gateway.errors import UpstreamError
from gateway.secret import Secret
from gateway.transport.proxy import own
from providers.credentials.sigv4 import Keys
from providers.credentials.tokens import Lease, Refresher

INSTALL = "AWS's credential chain needs botocore: pip install 'arriero[aws]', or say 'api_key' or 'access_key_id'"
BEARER = "AWS_BEARER_TOKEN_BEDROCK"
FILE_LIFE_S = 10.0
"""How soon a key that was changed in a file is used (failures.md, F4)."""
LIMITS: Mapping[str, Any] = {"connect_timeout": 5, "read_timeout": 10, "retries": {"total_max_attempts": 2}}
"""Of botocore's clients, whose own are a minute and five tries: when to try again is tokens.py's to say."""
FILES = ("shared-credentials-file", "config-file")
PLACES = (
    "the environment (AWS_ACCESS_KEY_ID), the profile in ~/.aws (AWS_PROFILE), web identity "
    "(AWS_WEB_IDENTITY_TOKEN_FILE), the container's role (AWS_CONTAINER_CREDENTIALS_*), the instance's role"
)


class Bearer(NamedTuple):
    """A Bedrock API key."""

    token: str

    def __repr__(self) -> str:
        return "Bearer(…)"


Credential = Keys | Bearer


class Source(Protocol):
    """Where credentials come from. `get` and `renew` are those of tokens.Refresher; `secrets` are what is known now."""

    def secrets(self) -> Sequence[str]: ...

    async def get(self) -> Credential: ...

    async def renew(self, refused: Credential) -> Credential | None: ...

    async def aclose(self) -> None: ...


class Fixed:
    """Credentials of the config. One in a file is read again when the file changes, which `Secret` sees to."""

    def __init__(self, read: Callable[[], Credential]) -> None:
        self._read = read

    def secrets(self) -> Sequence[str]:
        return secrets_of(self._read())

    async def get(self) -> Credential:
        return self._read()

    async def renew(self, refused: Credential) -> Credential | None:
        found = self._read()
        return None if found == refused else found

    async def aclose(self) -> None:
        """Nothing is held."""


def bearer(key: Secret) -> Fixed:
    return Fixed(lambda: Bearer(key.reveal()))


def said(key_id: Secret, secret: Secret, token: Secret | None) -> Callable[[], Keys]:
    """The config's own keys, as they are now."""
    return lambda: Keys(key_id.reveal(), secret.reveal(), token.reveal() if token else None)


def secrets_of(found: Credential) -> Sequence[str]:
    if isinstance(found, Bearer):
        return [found.token]
    return [text for text in (found.secret_access_key, found.session_token) if text]


class Role(NamedTuple):
    """A role to take on with what the chain finds, or with `keys` where the config has some. Its region is STS's."""

    arn: str
    region: str
    external_id: str | None = None
    session_name: str = "arriero"
    keys: Callable[[], Keys] | None = None


class Network(NamedTuple):
    """How AWS's token services are reached: through an account's proxy, trusting its authorities too, at FIPS hosts."""

    proxy: Secret | None = None
    ca_file: str | None = None
    fips: bool = False


INTERNET = Network()


class Chain:
    """AWS's default credential chain, with a profile where one is named, and a role on top of it where one is."""

    def __init__(
        self,
        profile: str | None,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        network: Network = INTERNET,
        role: Role | None = None,
    ) -> None:
        """Raises ValueError when botocore is not installed."""
        if importlib.util.find_spec("botocore") is None:
            raise ValueError(INSTALL)
        self._profile, self._wall, self._network, self._role = profile, wall, network, role
        self._from_file: Keys | None = None
        self._stamp: object = None
        self._keys: Keys | None = None
        self._refresher: Refresher[Keys] = Refresher(self._fetch, clock)

    def secrets(self) -> Sequence[str]:
        return secrets_of(self._keys) if self._keys else []

    async def get(self) -> Credential:
        return await self._refresher.get()

    async def renew(self, refused: Credential) -> Credential | None:
        return await self._refresher.renew(refused) if isinstance(refused, Keys) else None

    async def aclose(self) -> None:
        await self._refresher.aclose()

    async def _fetch(self) -> Lease[Keys]:
        lease = await asyncio.to_thread(self._resolve)
        self._keys = lease.value
        return lease

    def _resolve(self) -> Lease[Keys]:
        """What the chain finds now. In a thread; blocks on files and, at times, the network. Raises UpstreamError."""
        stamp = _stamp(os.environ)
        if self._from_file is not None and stamp == self._stamp:
            return Lease(self._from_file, FILE_LIFE_S)
        try:
            found = _botocore(self._profile, self._network, self._role)
        except UpstreamError:
            if self._from_file is None:
                raise
            return Lease(self._from_file, FILE_LIFE_S)  # the file is gone or half written: the last keys are kept
        if found.method in FILES:
            self._from_file, self._stamp = found.keys, stamp
            return Lease(found.keys, FILE_LIFE_S)
        return Lease(found.keys, None if found.expires is None else found.expires - self._wall())


class _Found(NamedTuple):
    keys: Keys
    method: str
    expires: float | None


def _botocore(profile: str | None, network: Network, role: Role | None) -> _Found:
    """A new session each time: that is how botocore asks a source anew before its own fixed 15 minutes are near."""
    import botocore.exceptions

    where = f"profile '{profile}'" if profile else "the account's keys" if role and role.keys else PLACES
    where += f", for the role {role.arn}" if role else ""
    try:
        with _session(profile, network) as session:
            found = _assumed(session, role) if role else _chained(session)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError, ValueError) as error:
        text = f"could not get AWS credentials ({_reason(error)}); looked at {where}"
        raise UpstreamError("status", text, status=401, sent=False) from error
    if found is None:
        raise UpstreamError("status", f"found no AWS credentials; looked at {where}", status=401, sent=False)
    return found


@contextlib.contextmanager
def _session(profile: str | None, network: Network) -> Iterator[Any]:
    import botocore.config
    import botocore.httpsession
    import botocore.session

    session: Any = botocore.session.Session(profile=profile)
    options: dict[str, Any] = dict(LIMITS)
    if network.proxy is not None:
        found = own(network.proxy)
        options["proxies"] = {"http": found.url(), "https": found.url()} if found else {}
    if network.fips:
        options["use_fips_endpoint"] = True
    session.set_default_client_config(botocore.config.Config(**options))
    if network.ca_file is None:
        yield session
        return
    with tempfile.NamedTemporaryFile() as bundle:  # botocore takes one file
        for file in (botocore.httpsession.get_cert_path(True), network.ca_file):
            bundle.write(Path(file).read_bytes() + b"\n")
        bundle.flush()
        session.set_config_variable("ca_bundle", bundle.name)
        yield session


def _chained(session: Any) -> _Found | None:
    found = session.get_credentials()
    frozen = found.get_frozen_credentials() if found is not None else None
    if frozen is None or not frozen.access_key:
        return None
    expiry = getattr(found, "_expiry_time", None)  # public only as "are there n seconds left"
    keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
    return _Found(keys, str(getattr(found, "method", "")), expiry.timestamp() if expiry else None)


def _assumed(session: Any, role: Role) -> _Found | None:
    base = role.keys() if role.keys else None
    if base is None:
        found = _chained(session)
        if found is None:
            return None
        base = found.keys
    sts: Any = session.create_client("sts", role.region, None, True, None, None, *base)
    asked = {"RoleArn": role.arn, "RoleSessionName": role.session_name}
    given = sts.assume_role(**asked, **({"ExternalId": role.external_id} if role.external_id else {}))["Credentials"]
    keys = Keys(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    return _Found(keys, "assume-role", given["Expiration"].timestamp())


_is_code = re.compile(r"[A-Za-z]{3,60}").fullmatch


def _reason(error: Exception) -> str:
    """The exception's name, and STS's word for it where it has one."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return f"{type(error).__name__} {code}" if isinstance(code, str) and _is_code(code) else type(error).__name__


def _stamp(env: Mapping[str, str]) -> object:
    """What changes when one of AWS's files does."""
    names = (env.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), env.get("AWS_CONFIG_FILE", "~/.aws/config"))
    return tuple(_modified(os.path.expanduser(name)) for name in names)


def _modified(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
