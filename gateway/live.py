"""The calls being answered, and taking leave: ready, draining, cutting. Owns that state.

Rule 1. From the first SIGTERM on the gateway is not ready, and every answer says `connection: close`.
Rule 2. Live calls run to their end within the grace period; those cut after it are told so.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import Gauge

Task = asyncio.Task[Any]


class Live:
    """Which calls are live. `cutting` is True once the grace period is over."""

    def __init__(self, in_flight: Gauge, draining: Gauge) -> None:
        self._tasks: set[Task] = set()
        self._in_flight, self._draining = in_flight, draining
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = self.closed = self.cutting = False

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def call(self) -> Iterator[Task]:
        """The current task is a live call until the block ends."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._in_flight.inc()
        self._empty.clear()
        try:
            yield task
        finally:
            self._tasks.discard(task)
            self._in_flight.dec()
            if not self._tasks:
                self._empty.set()

    def drain(self) -> None:
        """Readiness fails from now on."""
        self.draining = True
        self._draining.set(1)

    def close(self) -> None:
        """New calls are refused from now on."""
        self.closed = True

    async def ended(self, within_s: float) -> bool:
        """Waits until no call is live; False when `within_s` was not enough."""
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def cut(self) -> None:
        """Ends every live call; streams tell their reader that they are not whole."""
        self.cutting = True
        for task in list(self._tasks):
            task.cancel()
