"""The noun Account: what every provider's section in the config has in common. Its dialect is in providers/."""

import os
import re
from collections.abc import Callable
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from gateway.secret import Secret
from gateway.transport.client import Origin, Timeouts
from gateway.transport.proxy import chosen, own

URL_PATTERN = r"^https?://((?![/?#@])[!-~])+(/((?![?#])[!-~])*)?(?!\n)$"
"""http(s) and a host, perhaps a path; no credentials, query or fragment, and only what HTTP can carry."""

TOKEN_TIMEOUTS = Timeouts(connect_s=5.0, first_byte_s=10.0, idle_s=10.0, total_s=15.0)
Count = Annotated[int, msgspec.Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the config file; unknown words are refused."""


class Guardrail(Section, frozen=True, kw_only=True):
    """A guardrail of Bedrock's for every call. With `trace`, what it found is in the answer's `trace`."""

    id: str
    version: str = "DRAFT"
    trace: Literal["enabled", "disabled", "enabled_full"] = "disabled"
    stream: Literal["sync", "async"] = "sync"


class Account(Section, frozen=True, kw_only=True):
    """A cloud account, region and credential; every provider's own options come on top.

    `url` replaces the cloud's own base URL (private endpoints, VPC hosts, sandboxes). `proxy` is a forward proxy,
    `none` for none; without it the environment's is taken (HTTPS_PROXY, HTTP_PROXY, NO_PROXY). `stream_end: close` says
    that this server ends its streams without any marker, so that a bare end counts as a whole answer. `on_disconnect:
    drain` says that an answer is paid to its end though nobody takes it: it is then read, to know what it cost."""

    url: str | None = None
    region: str | None = None
    trust: str | None = None
    timeouts: Timeouts = Timeouts()
    max_connections: Count = 1000
    proxy: Secret | None = None
    ca_file: str | None = None
    stream_end: Literal["marker", "close"] = "marker"
    on_disconnect: Literal["cancel", "drain"] = "cancel"

    def __post_init__(self) -> None:
        if self.url is not None and not _is_base(self.url):
            raise ValueError("'url' must be http:// or https:// with a host, without a query or credentials")
        if self.proxy is not None:
            own(self.proxy)

    def origin(self, url: str) -> Origin:
        """Where a URL of this account is and how it is reached. Raises ValueError for a proxy that is none."""
        parts = urlsplit(url)
        return Origin(
            url=f"{parts.scheme}://{parts.netloc}",
            max_connections=self.max_connections,
            ca_file=self.ca_file,
            proxy=chosen(url, self.proxy, os.environ),
            timeouts=self.timeouts,
        )

    def token_origin(self, url: str) -> Origin:
        """The same for a server that gives credentials: few calls, short ones. It may be the cloud's public one though
        the account's own is private, so the system's authorities are good beside `ca_file`."""
        return msgspec.structs.replace(self.origin(url), max_connections=4, trust_system=True, timeouts=TOKEN_TIMEOUTS)


def _is_base(url: str) -> bool:
    """Whether it is a URL that paths can be added to."""
    if not re.fullmatch(URL_PATTERN, url):
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        return False


Reach = Callable[[str], Origin]
USUAL: Reach = Account().token_origin
"""How an account reaches a token's server that says nothing of its own about that."""
