"""Gateways that share a Redis, calls that go on while something happens to it, and what it counted in the end."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Self

from tests.harness import Served, Upstream, eventually, serving, upstream
from tests.limits.stage import answering, call, limited
from tests.redis_server import RedisServer

PATIENT = {"redis_timeout_s": 10}
"""For tests of what is counted; how long is waited is what others test."""
HASTY = {"redis_timeout_s": 0.3}
"""Far less than anybody waits, and more than a busy machine may hold Redis up."""
SOFT = {"name": "a", "key": "key-a", "budget": {"usd": 1000, "per": "total"}}
HARD = {"name": "h", "key": "key-h", "budget": {"usd": "0.1", "per": "total", "hard": True}}
NANO_A_TOKEN = 1000


@contextlib.asynccontextmanager
async def replicas(
    url: str | list[str], *keys: dict[str, Any], script: Any = None, store: Any = None, **more: Any
) -> AsyncIterator[tuple[list[Served], Upstream]]:
    """Gateways of one config, two at one URL or one at each."""
    urls = [url, url] if isinstance(url, str) else url
    async with upstream(script or answering()) as up, contextlib.AsyncExitStack() as stack:
        config = limited(up.url, *keys, **more)
        shared = [{**config, "store": {"redis": one, **(store or PATIENT)}} for one in urls]
        yield [await stack.enter_async_context(serving(one)) for one in shared], up


async def at_rest(served: list[Served]) -> None:
    """Waits until Redis has confirmed the end of every call."""
    for one in served:
        shared = one.gateway.limiter.shared
        assert shared is not None
        await eventually(lambda shared=shared: not (len(shared) or shared.waiting or shared.away), "never confirmed")


async def away(served: list[Served]) -> None:
    """Waits until each knows that Redis is away."""
    for one in served:
        await eventually(lambda one=one: one.gateway.limiter.shared.away, "never noticed")


def changes(served: Served) -> list[str]:
    """What the log says of Redis."""
    return [record["event"] for record in served.log() if record["event"].startswith("redis_")]


async def spent(redis: RedisServer, owner: str = "a") -> int:
    """Nano-dollars that Redis has settled for a key."""
    key = f"arriero:{{t:{owner}}}:key:{owner}:total:"
    found = [await redis.say("HGET", key, name) for name in "bm"]
    return sum(0 if value == b"$-1" else int(value) for value in found)


async def held(redis: RedisServer, owner: str = "a") -> int:
    found = await redis.say("HGET", f"arriero:{{t:{owner}}}:key:{owner}:total:", "h")
    return 0 if found == b"$-1" else int(found)


class Load:
    """Callers that call without a pause, in turn at each gateway, until they are told to end."""

    def __init__(self, served: list[Served], callers: int = 4, tokens: int = 10) -> None:
        self.served, self.tokens = served, tokens
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self._ended = False
        self._tasks = [asyncio.create_task(self._run(i)) for i in range(callers)]

    async def _run(self, which: int) -> None:
        while not self._ended:
            which += 1
            found = await call(self.served[which % len(self.served)], max_tokens=self.tokens)
            self.statuses[found.status] += 1
            self.seconds.append(found.seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def more(self, count: int) -> None:
        """Waits until so many more were answered."""
        goal = self.statuses.total() + count
        await eventually(lambda: self.statuses.total() >= goal, "no answers any more: {}", lambda: self.statuses)

    async def end(self) -> int:
        """The tokens that were answered; every call was."""
        self._ended = True
        await asyncio.gather(*self._tasks)
        assert set(self.statuses) == {200}, self.statuses
        return self.statuses[200] * self.tokens
