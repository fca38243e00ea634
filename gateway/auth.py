"""Who calls: a bearer key to a tenant, in one place; compared by keyed digest, an unknown key is like a wrong one."""

import fnmatch
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec

from gateway import tenants
from gateway.config.document import Config, KeyGrant
from gateway.errors import ClientError, ConfigError
from gateway.keys.issued import Issued
from gateway.keys.keystore import Issue
from gateway.types import Tenant

ANONYMOUS = Tenant("anonymous", id="anonymous")
NEVER = float("inf")
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")
INVALID_KEY = "The API key is missing or not known here: send `Authorization: Bearer <key>`."


class Keyring:
    """The keys of a config by digest, and behind them those of run time. Without any key every caller is anonymous."""

    def __init__(self, config: Config, issued: Issued, wall: Callable[[], float] = time.time) -> None:
        self._issued, self._wall = issued, wall
        self._allow_anonymous = config.server.allow_anonymous
        self._names_store = config.store.url(None) is not None
        self._made: dict[str, tuple[Issue, Tenant | None]] = {}
        self._teams = tenants.by_name(config.teams)
        self._pepper = secrets.token_bytes(32)
        self._tenants: dict[bytes, Tenant] = {}
        names, made = set[str](), issued.names()
        for i, key in enumerate(config.keys):
            digest = self._digest(key.key.reveal().encode())
            if digest in self._tenants:
                raise ConfigError(f"keys[{i}].key", f"is the same key as that of '{self._tenants[digest].name}'")
            if key.name in names:
                raise ConfigError(f"keys[{i}].name", f"'{key.name}' stands twice")
            if key.name in made:
                raise ConfigError(f"keys[{i}].name", f"'{key.name}' is the name of a run-time key: revoke that first")
            names.add(key.name)
            self._tenants[digest] = tenants.tenant(key, key.name, self._teams, f"keys[{i}]")
        for i, admin in enumerate(config.admin.tokens):
            if self._digest(admin.token.reveal().encode()) in self._tenants:
                raise ConfigError(f"admin.tokens[{i}].token", "is also a client's key: admin tokens cannot infer")

    @property
    def anonymous(self) -> bool:
        """Whether a caller needs no key."""
        closed = self._issued.exposed and not self._allow_anonymous
        return not (self._tenants or closed or self._issued.required)

    @property
    def may_have_keys(self) -> bool:
        """Whether somebody saw to it that there are keys, or can be: the usual ledger is there unasked."""
        return bool(self._tenants) or (self._names_store and self._issued.offered)

    def names(self) -> list[str]:
        """Of the keys of the config."""
        return [tenant.name for tenant in self._tenants.values()]

    def tenant(self, authorization: bytes | None) -> Tenant:
        """Raises ClientError 401, the same for a missing, a malformed, an unknown, a revoked and an expired key."""
        if not self._tenants and self.anonymous:
            return ANONYMOUS
        scheme, _, given = (authorization or b"").partition(b" ")
        key = given.strip() if scheme.lower() == b"bearer" else b""
        found = self._tenants.get(self._digest(key)) or self._of_run_time(key)
        if found is None or (found.expires != NEVER and found.expires <= self._wall()):
            raise ClientError(401, "invalid_api_key", INVALID_KEY)
        return found

    def _of_run_time(self, key: bytes) -> Tenant | None:
        """Raises ServiceError while it cannot be known."""
        issue = self._issued.find(key)
        if issue is None:
            return None
        issue_, found = self._made.get(issue.id, (None, None))
        if issue_ is not issue:
            if len(self._made) > 2 * len(self._issued):
                self._made.clear()  # of those that were revoked
            found = self._make(issue)
            self._made[issue.id] = issue, found
        return found

    def _make(self, issue: Issue) -> Tenant | None:
        """None, and a line in the log, for a key that this config has no place for: its team is gone, say."""
        try:
            grant = msgspec.json.decode(issue.words, type=KeyGrant)
            return tenants.tenant(grant, issue.id, self._teams, "key")
        except (msgspec.MsgspecError, ConfigError) as error:
            self._issued.refused(issue, str(error))
            return None

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2s(key, key=self._pepper).digest()


@lru_cache(maxsize=4096)
def may_use(routes: tuple[str, ...], route: str) -> bool:
    """Whether one of a key's patterns matches a route of the config."""
    return any(fnmatch.fnmatchcase(route, pattern) for pattern in routes)


def allows(tenant: Tenant, route: str) -> bool:
    """Whether the key, and its team, may use a route."""
    return may_use(tenant.routes, route) and (tenant.team is None or may_use(tenant.team_routes, route))


def authorize(tenant: Tenant, route: str) -> None:
    """Raises ClientError 403 when the key may not use the route."""
    if not allows(tenant, route):
        raise ClientError(403, "not_allowed", f"The key '{tenant.name}' may not use '{route}'.", param="model")


def labels(tenant: Tenant, header: str | None) -> Mapping[str, str]:
    """The key's labels and those of `x-arriero-labels: a=b,c=d`, which may add but never change one of the key's.

    Raises ClientError 400 for a malformed header, 403 for one that would loosen the key's."""
    if not header:
        return tenant.labels
    found = dict(tenant.labels)
    for part in header.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or not _LABEL.fullmatch(name) or not _LABEL.fullmatch(value):
            raise ClientError(
                400, "invalid_request", "x-arriero-labels must be like `sensitivity=restricted,region=eu`."
            )
        if found.setdefault(name, value) != value:
            raise ClientError(
                403, "not_allowed", f"The key '{tenant.name}' fixes the label '{name}' to '{found[name]}'."
            )
    return found
