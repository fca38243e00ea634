"""Where Redis is: the URL of the config as one server, a master that Sentinels know, or a cluster. Pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

FORMS = (
    "redis://user:password@host:6379/0, rediss://… with TLS (?ssl_ca_certs=/file), redis+sentinel://host:26379,host:26379/"
    "name, redis+cluster://host:6379,host:6379"
)


class Place(NamedTuple):
    """What a URL names."""

    kind: str
    tls: bool
    hosts: Sequence[tuple[str, int]]
    service: str
    options: dict[str, Any]


def place(url: str) -> Place:
    """Raises ValueError that says the forms, and never the URL: it may hold a password."""
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    parts = urlsplit(f"x://{rest}")
    login, _, hosts_text = parts.netloc.rpartition("@")
    if base not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster") or not hosts_text:
        raise ValueError(f"must be {FORMS}")
    usual = 26379 if kind == "sentinel" else 6379
    try:
        hosts = [_host(text, usual) for text in hosts_text.split(",")]
        path = [part for part in parts.path.split("/") if part]
        service = path.pop(0) if kind == "sentinel" else ""
        options: dict[str, Any] = {"db": int(path[0])} if path else {}
    except (ValueError, IndexError) as error:
        raise ValueError(f"must be {FORMS}") from error
    user, _, password = login.partition(":")
    options |= {name: unquote(text) for name, text in (("username", user), ("password", password)) if text}
    for option in filter(None, parts.query.split("&")):
        name, _, value = option.partition("=")
        if name not in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            raise ValueError(f"knows no '{name}'; known: ssl_ca_certs, ssl_certfile, ssl_keyfile")
        options[name] = unquote(value)
    if kind == "cluster" and "db" in options:
        raise ValueError("may not number a database: a cluster has one")
    return Place(kind, base == "rediss", hosts, service, options)


def _host(text: str, usual: int) -> tuple[str, int]:
    parts = urlsplit(f"x://{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or usual
