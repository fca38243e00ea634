"""A credential that expires: fetched once for all who wait, ahead of time, used to its end while its source is down.

Rule 1. One fetch at a time, in a task of its own: a caller that is cancelled takes nothing from the others.
Rule 2. From REFRESH_SHARE of its life on it is fetched anew in the background; callers go on with the old one.
Rule 3. A source that fails is left alone for a growing, jittered while; a caller without a credential hears its error.
Rule 4. A credential that a cloud refused is fetched anew once, however many calls were refused with it.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

import tenacity

from gateway.errors import UpstreamError

T = TypeVar("T")
REFRESH_SHARE = 0.8
FETCH_S = 20.0
FORCED_EVERY_S = 10.0
BACK_OFF = tenacity.wait_exponential(multiplier=0.5, max=30) + tenacity.wait_random(0, 1)
"""Seconds after the n-th failure in a row: 0.5, 1, 2 … 30, and up to one more, so that replicas do not fall in step."""


class Lease(NamedTuple, Generic[T]):
    """A credential and the seconds it lives from now on; None: it does not expire by itself."""

    value: T
    life_s: float | None = None


class Refresher(Generic[T]):
    """Keeps one credential fresh. `fetch` gives a new one or raises; its message must be fit to be shown.

    `clock` is monotonic. Every failure to get a credential is an UpstreamError of status 401: another deployment's
    chance, and an alert for us."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Lease[T]]],
        clock: Callable[[], float] = time.monotonic,
        fetch_s: float = FETCH_S,
    ) -> None:
        self._fetch, self._clock, self._fetch_s = fetch, clock, fetch_s
        self._value: T | None = None
        self._fresh_until = self._ends = float("-inf")
        self._flight: asyncio.Task[None] | None = None
        self._error: UpstreamError | None = None
        self._failures = 0
        self._next_try = self._next_forced = float("-inf")

    async def get(self) -> T:
        """The credential. Waits only when there is none that still lives. Raises UpstreamError."""
        now = self._clock()
        value = self._value
        if value is not None and now < self._ends:
            if now >= self._fresh_until and now >= self._next_try:
                self._take_off()
            return value
        if self._flight is None and now < self._next_try and self._error is not None:
            raise self._failed(self._error)
        return await self._landed()

    async def renew(self, refused: T) -> T | None:
        """Another credential than the refused one, fetched unless somebody has done so; None when it must not be tried
        again yet or there is no other."""
        now = self._clock()
        if self._value == refused:
            if self._flight is None and now < max(self._next_forced, self._next_try):
                return None
            self._next_forced = now + FORCED_EVERY_S
            with contextlib.suppress(UpstreamError):
                await self._landed()
        return None if self._value == refused else self._value

    async def aclose(self) -> None:
        """Gives up a fetch that is under way."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)

    async def _landed(self) -> T:
        """The credential of the fetch under way, or of a new one."""
        await asyncio.shield(self._take_off())
        if self._error is not None:
            raise self._failed(self._error)
        assert self._value is not None
        return self._value

    def _take_off(self) -> "asyncio.Task[None]":
        if self._flight is None:
            self._flight = asyncio.get_running_loop().create_task(self._fly())
        return self._flight

    async def _fly(self) -> None:
        """One fetch; what went wrong is kept, not raised."""
        try:
            async with asyncio.timeout(self._fetch_s):
                lease = await self._fetch()
            if lease.life_s is not None and lease.life_s <= 0:
                raise UpstreamError("status", "its source gave a credential that had expired already", status=401)
            self._keep(lease)
        except TimeoutError:
            self._fell(UpstreamError("status", f"its credential's source gave none in {self._fetch_s:g} s", status=401))
        except UpstreamError as error:
            self._fell(error)
        except Exception as error:  # noqa: BLE001  (the outermost place of its task)
            what = f"its credential's source failed ({type(error).__name__})"
            self._fell(UpstreamError("status", what, status=401))
        finally:
            self._flight = None

    def _keep(self, lease: Lease[T]) -> None:
        now = self._clock()
        self._value, self._error, self._failures, self._next_try = lease.value, None, 0, float("-inf")
        life_s = float("inf") if lease.life_s is None else lease.life_s
        self._fresh_until, self._ends = now + life_s * REFRESH_SHARE, now + life_s

    def _fell(self, error: UpstreamError) -> None:
        self._failures += 1
        self._error, self._next_try = error, self._clock() + back_off_s(self._failures)

    def _failed(self, error: UpstreamError) -> UpstreamError:
        """A fresh exception for each who waits: one that is raised twice grows its traceback for ever."""
        return UpstreamError(error.kind, error.message, status=error.status or 401, sent=False)


def back_off_s(failures: int) -> float:
    """How long to leave a source alone after so many failures in a row."""
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = failures
    return float(BACK_OFF(state))
