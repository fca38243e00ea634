"""The noun Account: what every provider's section in the config has in common. Its dialect is in providers/."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from gateway.transport import Timeouts

URL_PATTERN = r"^https?://((?![/?#@])[!-~])+(/((?![?#])[!-~])*)?(?!\n)$"
"""http(s) and a host, perhaps a path; no credentials, query or fragment, and only what HTTP can carry."""

Count = Annotated[int, msgspec.Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the config file; unknown words are refused."""


class Account(Section, frozen=True, kw_only=True):
    """A cloud account, region and credential; every provider's own options come on top.

    `url` replaces the cloud's own base URL (private endpoints, VPC hosts, sandboxes). `stream_end: close` says that
    this server ends its streams without any marker, so that a bare end counts as a whole answer."""

    url: str | None = None
    region: str | None = None
    trust: str | None = None
    timeouts: Timeouts = Timeouts()
    max_connections: Count = 1000
    ca_file: str | None = None
    stream_end: Literal["marker", "close"] = "marker"

    def __post_init__(self) -> None:
        if self.url is not None and not _is_base(self.url):
            raise ValueError("'url' must be http:// or https:// with a host, without a query or credentials")


def _is_base(url: str) -> bool:
    """Whether it is a URL that paths can be added to."""
    if not re.fullmatch(URL_PATTERN, url):
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        return False
