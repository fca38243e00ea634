"""Gateways that share a database of keys, before one upstream, and their admin API."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx

from gateway.ledger.place import Storage
from tests.harness import Answer, Served, ask, chat, config, route, serving, upstream
from tests.limits.stage import PRICE, answering

PEPPER = "a-pepper-for-tests-of-forty-letters-or-so"


def document(url: str, ledger: str, **more: Any) -> dict[str, Any]:
    """A config with one key, so that nobody is anonymous, and an admin token that may change things."""
    deployment = {"account": "up", "model": "m", "price": PRICE, "max_output_tokens": 1000}
    found = config({"r": route(deployment), "other": route(deployment)}, up=url)
    peppers = {} if ledger.startswith("sqlite") else {"peppers": [PEPPER]}
    return {
        **found,
        "keys": [{"name": "c", "key": "of-config"}],
        "admin": {"tokens": [{"name": "ops", "token": "ops-token", "scope": "write"}]},
        "store": {"ledger": ledger, **peppers},
        **more,
    }


class Stage:
    """Some gateways and their config."""

    def __init__(self, said: dict[str, Any], storage: Storage, served: list[Served]) -> None:
        self.document, self.storage, self.served = said, storage, served

    def another(self, **more: Any) -> contextlib.AbstractAsyncContextManager[Served]:
        """One more gateway, its config changed."""
        return serving({**self.document, **more}, storage=self.storage)

    @property
    def one(self) -> Served:
        return self.served[0]


@contextlib.asynccontextmanager
async def stage(
    ledger: str, gateways: int = 1, wall: Callable[[], float] | None = None, script: Any = None, **more: Any
) -> AsyncIterator[Stage]:
    async with contextlib.AsyncExitStack() as stack:
        up = await stack.enter_async_context(upstream(script or answering()))
        said = document(up.url, ledger, **more)
        storage = Storage(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        served = [await stack.enter_async_context(serving(said, wall=wall, storage=storage)) for _ in range(gateways)]
        yield Stage(said, storage, served)


async def admin(
    served: Served, method: str, path: str, said: Any = None, token: str | None = "ops-token", **headers: str
) -> httpx.Response:
    """One question to the admin API."""
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    async with httpx.AsyncClient(base_url=served.admin_url, timeout=60) as client:
        return await client.request(method, path, json=said, headers=headers)


async def made(served: Served, name: str = "k", **words: Any) -> str:
    """A new key."""
    answer = await admin(served, "POST", "/admin/keys", {"name": name, **words})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


async def call(served: Served, key: str | None, model: str = "r") -> Answer:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return await ask(served, chat(model, max_tokens=1), **headers)


async def until(served: Served, key: str, status: int) -> Answer:
    """Calls until the answer has that status, every few milliseconds."""
    while (answer := await call(served, key)).status != status:
        assert answer.status in (200, 401, 503)
        await asyncio.sleep(0.005)
    return answer


def files(folder: Path) -> bytes:
    """All that is kept in a folder."""
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file())
