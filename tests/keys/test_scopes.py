"""Who may use the admin port, route by route as they are: each names one scope, and a token has one."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from gateway.app import Gateway
from gateway.config import loading
from gateway.endpoints.guard import Guard
from tests.harness import Served, ask, serving

CONFIG: dict[str, Any] = {
    "providers": {"a": {"type": "openai", "url": "http://127.0.0.1:1/v1"}},
    "routes": {"r": {"deployments": [{"account": "a", "model": "m"}]}},
    "keys": [{"name": "client", "key": "client-key"}],
}
TOKENS = [{"name": "r", "token": "reads", "scope": "read"}, {"name": "w", "token": "writes", "scope": "write"}]
OPEN = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")}


def routes() -> list[tuple[str, str, str | None]]:
    """Method, path and scope of every route of the admin port; None where everybody may."""
    found: list[tuple[str, str, str | None]] = []
    for route in Gateway(loading.build(CONFIG)).admin.routes:
        assert isinstance(route, Route | APIRoute)
        parts = route.dependant.dependencies if isinstance(route, APIRoute) else []
        guards = [part.call for part in parts if isinstance(part.call, Guard)]
        assert len(guards) <= 1
        scope = guards[0].scope if guards else None
        found += [(method, route.path, scope) for method in (route.methods or set()) - {"HEAD"}]
    return found


ROUTES = routes()
GUARDED = [(method, path, scope) for method, path, scope in ROUTES if scope is not None]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving({**CONFIG, "admin": {"tokens": TOKENS}}) as found:
        yield found


async def status(served: Served, method: str, path: str, **headers: str) -> int:
    async with httpx.AsyncClient(base_url=served.admin_url) as client:
        answer = await client.request(method, path.replace("{", "").replace("}", ""), headers=headers)
        assert method == "HEAD" or answer.status_code < 400 or set(answer.json()) == {"error"}
        return answer.status_code


def test_every_route_names_one_scope_or_is_known_to_be_open() -> None:
    assert {(method, path) for method, path, scope in ROUTES if scope is None} == OPEN


def test_what_changes_something_needs_write() -> None:
    reads = {(method, path) for method, path, scope in GUARDED if scope == "read"}
    assert {path for method, path in reads if method != "GET"} == {"/admin/explain"}  # it makes no call


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED, ids=lambda part: str(part))
async def test_a_guarded_route_takes_its_scope_and_nothing_less(
    served: Served, method: str, path: str, scope: str
) -> None:
    for authorization in ("", "reads", "Bearer", "Bearer read", "Bearer writes2", "Basic writes", "Bearer client-key"):
        assert await status(served, method, path, authorization=authorization) == 401
    assert await status(served, method, path, authorization="Bearer writes") not in (401, 403)
    refused = await status(served, method, path, authorization="bearer reads") in (401, 403)
    assert refused == (scope == "write")


async def test_an_admin_token_cannot_infer(served: Served) -> None:
    for token in ("reads", "writes"):
        answer = await ask(served, authorization=f"Bearer {token}")
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


async def test_the_public_port_has_nothing_of_the_admin_port(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url) as client:
        for method, path, _ in GUARDED:
            answer = await client.request(method, path, headers={"authorization": "Bearer writes"})
            assert answer.status_code == 404
