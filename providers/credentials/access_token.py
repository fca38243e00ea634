"""An access token that goes as bearer and must be fetched first. How a cloud gives one is in its own file beside this.

Rule 1. `get` does not suspend while a token lives.
Rule 2. What a token is made of is looked at every LOOK_S; when it changed, a new token is fetched behind the old one.
"""

import asyncio
import contextlib
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

from gateway.errors import UpstreamError
from providers.credentials.tokens import Lease, Refresher

LOOK_S = 2.0


class Source(Protocol):
    """One way to a token. `stamp` changes when a file or a secret does that the next token would be made of.

    `fetch` raises UpstreamError whose message is fit to be shown."""

    async def fetch(self) -> Lease[str]: ...

    def stamp(self) -> object: ...

    async def aclose(self) -> None: ...


class AccessToken:
    """Keeps one account's token fresh."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source, self._clock = source, clock
        self._refresher: Refresher[str] = Refresher(self._fetch, clock)
        self._successor: Refresher[str] | None = None
        self._stamp, self._next_look = source.stamp(), clock() + LOOK_S
        self._task: asyncio.Task[None] | None = None
        self._last = ""
        self._ends = -math.inf

    def secrets(self) -> Sequence[str]:
        return [self._last] if self._last else []

    def start(self) -> None:
        """Fetches the first token in the background: nobody waits for a source that is down."""
        self._behind(self._refresher)

    async def get(self, deadline: float) -> str:
        """The token. Raises UpstreamError, at the deadline at the latest."""
        now = self._clock()
        if now >= self._next_look:
            self._look()
        if now < self._ends:  # it will not wait, and a timer costs more than all the rest
            self._last = await self._refresher.get()
        else:
            async with self._until(deadline):
                self._last = await self._refresher.get()
        return self._last

    async def renew(self, refused: str, deadline: float) -> str | None:
        """Another token than the refused one, or None. Raises UpstreamError at the deadline."""
        async with self._until(deadline):
            found = await self._refresher.renew(refused)
        self._last = found or self._last
        return found

    @contextlib.asynccontextmanager
    async def _until(self, deadline: float) -> AsyncIterator[None]:
        left_s = deadline - self._clock()
        try:
            async with asyncio.timeout(None if left_s == math.inf else left_s):
                yield
        except TimeoutError as error:
            text = "the call's time was over before there was an access token"
            raise UpstreamError("total_timeout", text, sent=False) from error

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for refresher in (self._refresher, self._successor):
            if refresher is not None:
                await refresher.aclose()
        await self._source.aclose()

    async def _fetch(self) -> Lease[str]:
        lease = await self._source.fetch()
        self._ends = math.inf if lease.life_s is None else self._clock() + lease.life_s
        return lease

    def _look(self) -> None:
        """Sees whether what the token is made of changed, and goes on with a successor that has none yet."""
        self._next_look = self._clock() + LOOK_S
        stamp = self._source.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            self._successor = Refresher(self._fetch, self._clock)
            if not self._last:  # nothing to go on with, and the old one may be backing off
                self._refresher, self._successor = self._successor, None
        if self._successor is not None:
            self._behind(self._successor)

    def _behind(self, refresher: Refresher[str]) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._try(refresher))

    async def _try(self, refresher: Refresher[str]) -> None:
        with contextlib.suppress(UpstreamError):
            await refresher.get()
            if refresher is self._successor:
                self._refresher, self._successor = refresher, None


def file_stamp(paths: Iterable[str | None]) -> object:
    """What changes when one of the files is written, replaced or removed."""
    return tuple(_written(path) for path in paths if path)


def _written(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


_is_code = re.compile(r"[A-Za-z_]{3,40}").fullmatch


def oauth_code(found: object) -> str:
    """The `error` of an OAuth refusal (RFC 6749, 5.2), which is one of a few words, with a space before it; or ""."""
    code = found.get("error") if isinstance(found, dict) else None
    return f" {code}" if isinstance(code, str) and _is_code(code) else ""


def unavailable(text: str) -> UpstreamError:
    """There is no token, for a reason that may be shown."""
    return UpstreamError("status", text, status=401, sent=False)
