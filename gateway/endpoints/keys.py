"""The admin API of keys: made, listed, rotated and revoked while the gateway runs. A key is shown once, when made.

Rule 1. Whoever makes or rotates a key may give no more routes than their own token may.
Rule 2. Keys of the config are listed and never changed here; names are unique across both.
"""

import contextlib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse

from gateway import tenants
from gateway.config import loading
from gateway.config.document import Config, KeyConfig, KeyGrant
from gateway.endpoints import http
from gateway.endpoints.guard import Admin, Guard
from gateway.errors import Answerable, ClientError, ConfigError
from gateway.keys.issued import Issued
from gateway.keys.keystore import Issue
from gateway.limits.allowance import moment
from gateway.log import Log
from gateway.parts import Current

BODY_BYTES = 65_536
LONGEST_OVERLAP_S = 30 * 86_400
CLOSED = "It is the first one: from now on every call needs a key."


def add_routes(app: FastAPI, current: Current, issued: Issued, log: Log) -> None:
    """Makes, lists, rotates and revokes."""
    tokens = lambda: current.parts.fleet.config.admin.tokens  # noqa: E731
    may_read, may_write = Guard("read", tokens), Guard("write", tokens)

    @app.get("/admin/keys", dependencies=[Depends(may_read)])
    async def every() -> JSONResponse:
        with answering():
            issues = await issued.every() if issued.offered else ()
        config = current.parts.fleet.config
        return JSONResponse(
            [*map(of_config, config.keys), *(of_run_time(issue, current.parts.fleet.wall()) for issue in issues)]
        )

    @app.post("/admin/keys")
    async def create(request: Request, admin: Annotated[Admin, Depends(may_write)]) -> JSONResponse:
        with answering():
            grant = granted(await words(request), admin, current.parts.fleet.config)
            was_open = current.parts.keyring.anonymous
            issue, key = await issued.create(grant, admin.name)
        log.write("key_created", name=issue.name, id=issue.id, by=admin.name)
        said = {"key": key, **of_run_time(issue), **({"note": CLOSED} if was_open else {})}
        return JSONResponse(said, 201, {"cache-control": "no-store"})

    @app.post("/admin/keys/{name:path}/rotate")
    async def rotate(
        name: str,
        admin: Annotated[Admin, Depends(may_write)],
        overlap_s: Annotated[float, Query(ge=0, le=LONGEST_OVERLAP_S)] = 0.0,
    ) -> JSONResponse:
        with answering():
            before = await in_reach(name, admin, current.parts.fleet.config, issued)
            issue, key = await issued.rotate(before, overlap_s)
        log.write("key_rotated", name=issue.name, id=issue.id, by=admin.name)
        return JSONResponse({"key": key, **of_run_time(issue)}, 200, {"cache-control": "no-store"})

    @app.delete("/admin/keys/{name:path}")
    async def revoke(name: str, admin: Annotated[Admin, Depends(may_write)]) -> JSONResponse:
        with answering():
            before = await in_reach(name, admin, current.parts.fleet.config, issued)
            issue = await issued.revoke(before, admin.name)
        log.write("key_revoked", name=issue.name, id=issue.id, by=admin.name)
        return JSONResponse(of_run_time(issue))


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """What is refused below is an answer of the admin API."""
    try:
        yield
    except ConfigError as error:
        raise HTTPException(400, str(error)) from error
    except Answerable as error:
        raise HTTPException(error.status, error.message, error.headers()) from error


async def words(request: Request) -> object:
    """The JSON of a body. Raises ClientError; 415 for a form that a page in a browser could send unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ClientError(
            415, "unsupported_media_type", "The body must be JSON: send `content-type: application/json`."
        )
    http.check_length(http.headers_of(request.scope), BODY_BYTES)
    pieces = request.stream()
    body = await http.read_body(lambda: anext(pieces, b""), BODY_BYTES)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ClientError(400, "invalid_request", "The body is not JSON.") from error


def granted(said: object, admin: Admin, config: Config) -> KeyGrant:
    """What a new key may. Raises ConfigError for what no config would take, ClientError for what may not be given."""
    if isinstance(said, dict) and "routes" not in said:
        said = {**said, "routes": list(admin.routes)}
    grant = loading.decode(said, KeyGrant, "key")
    tenants.tenant(grant, "", tenants.by_name(config.teams), "key")
    if grant.name in {key.name for key in config.keys}:
        raise ClientError(409, "conflict", f"A key of the config has the name '{grant.name}': choose another.")
    _check_reach(grant.routes, admin)
    return grant


async def in_reach(name: str, admin: Admin, config: Config, issued: Issued) -> Issue:
    """The run-time key. Raises ClientError when it is not there, or is not this admin's to change."""
    if name in {key.name for key in config.keys}:
        raise ClientError(409, "conflict", f"'{name[:128]}' is a key of the config: change it there.")
    issue = await issued.named(name)
    _check_reach(msgspec.json.decode(issue.words, type=KeyGrant).routes, admin)
    return issue


def _check_reach(routes: Sequence[str], admin: Admin) -> None:
    for pattern in routes:
        if not any(covers(bound, pattern) for bound in admin.routes):
            theirs = ", ".join(admin.routes)
            raise ClientError(403, "not_allowed", f"The token '{admin.name}' may give {theirs}, not '{pattern[:128]}'.")


def covers(bound: str, pattern: str) -> bool:
    """Whether a pattern surely matches nothing but what the bound matches: equal, a plain name, or below `prefix*`."""
    if pattern == bound or (not set(pattern) & set("*?[") and fnmatch.fnmatchcase(pattern, bound)):
        return True
    prefix = bound.removesuffix("*")
    return bound.endswith("*") and not set(prefix) & set("*?[") and pattern.startswith(prefix)


def of_config(key: KeyConfig) -> dict[str, Any]:
    return {"id": key.name, "source": "config", "state": "active", **_words(key)}


def of_run_time(issue: Issue, now_s: float = 0.0) -> dict[str, Any]:
    """What may be shown of a run-time key: everything but its digest."""
    found = msgspec.json.decode(issue.words)
    expired = found["expires"] is not None and moment(found["expires"]) <= now_s
    state = "revoked" if issue.revoked_ms is not None else "expired" if expired else "active"
    dates = {"created": _date(issue.created_ms), "revoked": _date(issue.revoked_ms)}
    people = {"created_by": issue.created_by, "revoked_by": issue.revoked_by, "pepper": issue.pepper}
    return {"id": issue.id, "source": "run time", "state": state, **found, **dates, **people}


def _words(key: KeyConfig) -> Mapping[str, Any]:
    found: Mapping[str, Any] = msgspec.to_builtins(key, enc_hook=lambda secret: None, builtin_types=())
    return {name: value for name, value in found.items() if name != "key"}


def _date(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
