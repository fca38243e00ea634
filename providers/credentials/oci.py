"""How Oracle wants a request signed, and the keys that are on disk or in the environment; tokens are oci_tokens.py.

Rule 1. What is signed, in which order, and how it is written is what Oracle's own signer does, byte for byte.
Rule 2. A key or token on disk is read again when it changed, looked at once a second; a bad new one leaves the old one.
Rule 3. No message holds any part of a key, a token or a pass phrase.

Sources: oci 2.189.0 signer.py, config.py and auth/signers; the API key's fingerprint as docs.oracle.com has it."""

import asyncio
import base64
import configparser
import email.utils
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

RECHECK_S = 1.0
DEFAULT_FILES = ("~/.oci/config", "~/.oraclebmc/config")
GENERIC_HEADERS = ("date", "(request-target)", "host")
BODY_HEADERS = ("content-length", "content-type", "x-content-sha256")
_PADDING, _SHA256 = padding.PKCS1v15(), hashes.SHA256()


class Identity(NamedTuple):
    """Who signs: what Oracle knows the key by, the key, and what it signs of any request."""

    key_id: str
    key: rsa.RSAPrivateKey
    headers: Sequence[str] = GENERIC_HEADERS


class Source(Protocol):
    """Where an identity comes from."""

    async def get(self) -> Identity:
        """The identity to sign with now. Raises UpstreamError."""

    async def renew(self, refused: Identity) -> Identity | None:
        """Another identity than the refused one, if there is one to be had."""

    async def aclose(self) -> None:
        """Lets go of what it holds."""


# ---------------------------------------------------------------------- signing
def signed(identity: Identity, target: str, host: str, body: bytes, wall_now: float) -> list[tuple[str, str]]:
    """The headers that a signed POST of JSON carries besides `host` and `content-length`."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    values = {
        "date": email.utils.formatdate(wall_now, usegmt=True),
        "(request-target)": f"post {target}",
        "host": host,
        "content-length": str(len(body)),
        "content-type": "application/json",
        "x-content-sha256": digest,
    }
    names = (*identity.headers, *BODY_HEADERS)
    message = "\n".join([f"{name}: {values[name]}" for name in names])
    signature = base64.b64encode(identity.key.sign(message.encode("ascii"), _PADDING, _SHA256)).decode()
    authorization = (
        f'Signature algorithm="rsa-sha256",headers="{" ".join(names)}",keyId="{identity.key_id}",'
        f'signature="{signature}",version="1"'
    )
    return [
        ("date", values["date"]),
        ("content-type", values["content-type"]),
        ("x-content-sha256", digest),
        ("authorization", authorization),
    ]


def signed_get(identity: Identity, target: str, host: str, wall_now: float) -> list[tuple[str, str]]:
    """The headers that a signed GET carries besides `host`."""
    date = email.utils.formatdate(wall_now, usegmt=True)
    message = f"date: {date}\n(request-target): get {target}\nhost: {host}"
    signature = base64.b64encode(identity.key.sign(message.encode("ascii"), _PADDING, _SHA256)).decode()
    authorization = (
        f'Signature algorithm="rsa-sha256",headers="{" ".join(GENERIC_HEADERS)}",keyId="{identity.key_id}",'
        f'signature="{signature}",version="1"'
    )
    return [("date", date), ("authorization", authorization)]


# ---------------------------------------------------------------------- keys
def load_key(pem: bytes, pass_phrase: str | None) -> rsa.RSAPrivateKey:
    """A private key from PEM, from PEM whose line breaks are written as `\\n`, or from its base64 alone.

    Raises ValueError that says what is wrong with it."""
    pem = pem.strip().replace(b"\\n", b"\n")
    secret = pass_phrase.encode() if pass_phrase else None
    try:
        try:
            key = _loaded(pem, secret)
        except TypeError:  # a pass phrase for a key that has none, or none for one that has
            if secret is None:
                raise ValueError("is encrypted: say its 'pass_phrase'") from None
            key = _loaded(pem, None)
    except ValueError as error:
        reason = str(error) if str(error).startswith("is encrypted") else "is no private key that can be read"
        hint = ", or its pass phrase is another" if secret and reason.startswith("is no") else ""
        raise ValueError(reason + hint) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("is not an RSA key")
    return key


def _loaded(pem: bytes, secret: bytes | None) -> object:
    if b"-----BEGIN" in pem:
        return serialization.load_pem_private_key(pem, secret)
    return serialization.load_der_private_key(base64.b64decode(pem, validate=True), secret)


def fingerprint_of(key: rsa.RSAPrivateKey) -> str:
    """The fingerprint that Oracle shows for an API key: MD5 of the public key's DER, in pairs."""
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.md5(der, usedforsecurity=False).hexdigest()
    return ":".join(digest[at : at + 2] for at in range(0, 32, 2))


class ApiKey(NamedTuple):
    """A user's API signing key, as a config or a profile says it; a file's path may begin with ~ or file:."""

    tenancy: str
    user: str
    fingerprint: str | None
    key_file: str | None
    key: Callable[[], str] | None = None
    pass_phrase: str | None = None

    def read(self) -> Identity:
        """Raises ValueError that names the field, never the key."""
        try:
            pem = self.key().encode() if self.key else path_of(self.key_file or "").read_bytes()
        except OSError as error:
            raise ValueError(f"'key_file' {self.key_file} cannot be read: {error.strerror}") from error
        try:
            key = load_key(pem, self.pass_phrase)
        except ValueError as error:
            raise ValueError(f"'key' {error}" if self.key else f"'key_file' {self.key_file} {error}") from error
        found = fingerprint_of(key)
        if self.fingerprint and self.fingerprint.lower() != found:
            raise ValueError(f"'fingerprint' {self.fingerprint} is not that of the key, which has {found}")
        return Identity(f"{self.tenancy}/{self.user}/{found}", key)

    def paths(self) -> Sequence[Path]:
        return [path_of(self.key_file)] if self.key_file else []


class SessionToken(NamedTuple):
    """A token and the key it was given for, both in files: of `oci session`, or of a resource principal."""

    token_file: str
    key_file: str
    pass_phrase: str | None = None

    def read(self) -> Identity:
        """Raises ValueError that names the file, never the token or the key."""
        try:
            token = path_of(self.token_file).read_text().strip()
            pem = path_of(self.key_file).read_bytes()
        except OSError as error:
            raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error
        if not token or not token.isascii() or not token.isprintable() or '"' in token:
            raise ValueError(f"{self.token_file} holds no token")
        try:
            return Identity(f"ST${token.removeprefix('ST$')}", load_key(pem, self.pass_phrase))
        except ValueError as error:
            raise ValueError(f"{self.key_file} {error}") from error

    def paths(self) -> Sequence[Path]:
        return [path_of(self.token_file), path_of(self.key_file)]


def path_of(text: str) -> Path:
    return Path(os.path.expanduser(text.removeprefix("file:")))


class Kept(Protocol):
    """An identity that is made from files."""

    def read(self) -> Identity: ...

    def paths(self) -> Sequence[Path]: ...


class Files:
    """An identity on disk: read at once (raises ValueError), and again in a thread when one of its files changed."""

    def __init__(self, kept: Kept, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept, self._clock = kept, clock
        self._stamps = _stamps(kept.paths())
        self._identity = kept.read()
        self._looked = clock()

    async def get(self) -> Identity:
        now = self._clock()
        if now - self._looked >= RECHECK_S:
            self._looked = now
            await self._look()
        return self._identity

    async def renew(self, refused: Identity) -> Identity | None:
        if self._identity is refused:
            await self._look()
        return None if self._identity is refused else self._identity

    async def aclose(self) -> None:
        """Nothing is held."""

    async def _look(self) -> None:
        stamps = _stamps(self._kept.paths())
        if stamps == self._stamps or None in stamps:
            return
        try:
            identity = await asyncio.to_thread(self._kept.read)
        except ValueError:  # half written, or gone again: the next look will tell
            return
        self._identity, self._stamps = identity, stamps


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int] | None]:
    """When each file was changed and how long it is; None where there is none."""
    found: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size))
        except OSError:
            found.append(None)
    return found


# ---------------------------------------------------------------------- where Oracle's tools keep them
class Profile(NamedTuple):
    """One section of an OCI config file, and where it was found."""

    fields: Mapping[str, str]
    place: str

    def kept(self, *, session: bool, pass_phrase: str | None = None) -> Kept:
        """A session token or an API key. Raises ValueError that names what the profile lacks."""
        wanted = ("security_token_file", "key_file") if session else ("tenancy", "user", "key_file")
        if missing := [name for name in wanted if not self.fields.get(name)]:
            raise ValueError(f"{self.place} lacks {', '.join(missing)}")
        pass_phrase = pass_phrase or self.fields.get("pass_phrase") or None
        if session:
            return SessionToken(self.fields["security_token_file"], self.fields["key_file"], pass_phrase)
        found = self.fields
        return ApiKey(
            found["tenancy"],
            found["user"],
            found.get("fingerprint"),
            found["key_file"],
            pass_phrase=pass_phrase,
        )


def read_profile(file: str | None, name: str, env: Mapping[str, str]) -> Profile:
    """A profile of the file said, or of the first of ~/.oci/config, $OCI_CONFIG_FILE and ~/.oraclebmc/config.

    Raises ValueError that lists the places looked at."""
    places = [file] if file else [DEFAULT_FILES[0], *filter(None, [env.get("OCI_CONFIG_FILE")]), DEFAULT_FILES[1]]
    found = next((place for place in places if path_of(place).is_file()), None)
    if found is None:
        raise ValueError(f"no OCI config file: looked at {', '.join(places)}")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path_of(found), encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{found} cannot be read as an OCI config file ({type(error).__name__})") from None
    if name not in parser:
        known = ["DEFAULT", *parser.sections()]
        raise ValueError(f"{found} has no profile '{name}'; it has {', '.join(known)}")
    return Profile(dict(parser[name]), f"profile '{name}' of {found}")


def resource_principal(env: Mapping[str, str]) -> Kept:
    """The token and key of OCI_RESOURCE_PRINCIPAL_*, version 2.2: texts, or paths of files that somebody keeps fresh.

    Raises ValueError that names the variable."""
    version = env.get("OCI_RESOURCE_PRINCIPAL_VERSION")
    if version != "2.2":
        said = f"is {version}" if version else "is not set"
        raise ValueError(f"OCI_RESOURCE_PRINCIPAL_VERSION {said}; offered: 1.1, 2.1, 2.1.1, 2.1.2, 2.2")
    for name in ("OCI_RESOURCE_PRINCIPAL_RPST", "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM"):
        if not env.get(name):
            raise ValueError(f"{name} is not set")
    token, pem = env["OCI_RESOURCE_PRINCIPAL_RPST"], env["OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM"]
    pass_phrase = env.get("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM_PASSPHRASE")
    if os.path.isabs(token) != os.path.isabs(pem):
        raise ValueError("OCI_RESOURCE_PRINCIPAL_RPST and ..._PRIVATE_PEM must both be paths, or both be texts")
    if not os.path.isabs(token):
        return _Said(token.strip(), pem.encode(), pass_phrase)
    if pass_phrase and os.path.isabs(pass_phrase):
        try:
            pass_phrase = Path(pass_phrase).read_text().strip()
        except OSError as error:
            raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error
    return SessionToken(token, pem, pass_phrase)


class _Said(NamedTuple):
    """A token and its key as texts."""

    token: str
    pem: bytes
    pass_phrase: str | None

    def read(self) -> Identity:
        try:
            key = load_key(self.pem, self.pass_phrase)
        except ValueError as error:
            raise ValueError(f"OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM {error}") from error
        return Identity(f"ST${self.token.removeprefix('ST$')}", key)

    def paths(self) -> Sequence[Path]:
        return []
