"""Which forward proxy leads to a URL: an account's own, or the environment's as the well-known tools read it. Pure.

Rule 1. What an account says goes before the environment, `none` too.
Rule 2. Link-local addresses (metadata services) are reached directly always; loopback unless an account says a proxy.
Rule 3. No message holds the user or the password of a proxy.

Sources: curl(1), "Environment"; Go's golang.org/x/net/http/httpproxy, for ports and CIDR in NO_PROXY."""

import base64
import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from gateway.secret import Secret

NONE = "none"
METADATA_HOST = "metadata.google.internal"
FORM = "http://host:port or https://host:port, perhaps with user:password@ (percent-encoded) before the host"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxy:
    """One forward proxy. Its credentials are read anew for every use, for the secret may be a file."""

    __slots__ = ("_secret", "host", "name", "port", "tls")

    def __init__(self, secret: Secret) -> None:
        """Raises ValueError for anything but an HTTP proxy."""
        parts = _parts(secret.reveal())
        self._secret, self.tls = secret, parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.tls else 80)
        self.name = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Proxy({self.name})"

    def authorization(self) -> str | None:
        """The value of `proxy-authorization` (RFC 7617), None without credentials."""
        userinfo, at, _ = _parts(self._secret.reveal()).netloc.rpartition("@")
        if not at:
            return None
        user, _, password = userinfo.partition(":")
        return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()

    def url(self) -> str:
        """As other libraries want it, credentials included."""
        return _parts(self._secret.reveal()).geturl()


def _parts(text: str) -> SplitResult:
    """Raises ValueError that shows nothing of the text: what cannot be read may hold a password."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        raise ValueError(f"is no proxy: it must be {FORM}") from None
    more = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or more or "@" in parts.hostname:
        raise ValueError(f"is no proxy: it must be {FORM}")
    return parts


def chosen(url: str, said: Secret | None, env: Mapping[str, str]) -> Proxy | None:
    """The proxy to a URL, None for a direct connection. Raises ValueError that names what is wrong and where."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    address = _address(host)
    if host == METADATA_HOST or (address is not None and address.is_link_local):
        return None
    if said is not None:
        return own(said)
    name, text = _said(env, f"{parts.scheme}_proxy")
    no_proxy = _said(env, "no_proxy")[1]
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not text or _is_here(host, address) or is_excepted(host, port, no_proxy):
        return None
    try:
        return Proxy(Secret(text))
    except ValueError as error:
        raise ValueError(f"{name} {error}; 'proxy: none' in the account does without it") from None


def own(said: Secret) -> Proxy | None:
    """An account's `proxy`. Raises ValueError."""
    if said.reveal() == NONE:
        return None
    try:
        return Proxy(said)
    except ValueError:
        raise ValueError(f"'proxy' must be {FORM}; or none") from None


def _said(env: Mapping[str, str], name: str) -> tuple[str, str]:
    """A variable's name and text; the lower-case one goes before the other, as in curl."""
    found = name if env.get(name) else name.upper()
    return found, env.get(found, "").strip()


def _is_here(host: str, address: Address | None) -> bool:
    """Whether a host is this machine."""
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)


def is_excepted(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY has an entry for it: a name (with all names below it; a dot or `*.` before it changes nothing),
    an IP address, a CIDR range, each perhaps with a port, or `*`."""
    return any(_matches(entry, host, port) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


_with_port = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d+)").fullmatch


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if found := _with_port(entry):
        entry = found[1] or found[2]
        if int(found[3]) != port:
            return False
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            return False
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> Address | None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found
