"""The calls being answered, and taking leave: ready, draining, cutting. Owns that state.

Rule 1. From the first SIGTERM on the gateway is not ready, and every answer says `connection: close`.
Rule 2. Live calls run to their end within the grace period; those cut after it are told so.
Rule 3. Calls may also be shed for a while (vitals/ says when and why): refused as long as they have gone nowhere.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from prometheus_client import Gauge

from gateway.errors import ServiceError

Task = asyncio.Task[Any]


class LiveCall:
    """The block of one live call; as a class, for a generator would cost as much as the rest of it."""

    __slots__ = ("_empty", "_task", "_tasks")

    def __init__(self, tasks: set[Task], empty: asyncio.Event) -> None:
        self._tasks, self._empty = tasks, empty

    def __enter__(self) -> Task:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._tasks.add(task)
        return task

    def __exit__(self, *_: object) -> None:
        self._tasks.discard(self._task)
        if not self._tasks:
            self._empty.set()


class Live:
    """Which calls are live."""

    def __init__(self, in_flight: Gauge, draining: Gauge) -> None:
        self._tasks: set[Task] = set()
        in_flight.set_function(lambda: len(self._tasks))
        self._draining = draining
        self._empty = asyncio.Event()  # set whenever the last live call ends
        self.draining = self.closed = False
        self.shed = ""  # why calls are refused at present
        self.late: Callable[[], bool] = bool

    def __len__(self) -> int:
        return len(self._tasks)

    def tasks(self) -> frozenset[Task]:
        """The live calls."""
        return frozenset(self._tasks)

    def call(self) -> LiveCall:
        """The current task is a live call until the block ends."""
        return LiveCall(self._tasks, self._empty)

    def drain(self) -> None:
        """Readiness fails from now on."""
        self.draining = True
        self._draining.set(1)

    def close(self) -> None:
        """New calls are refused from now on."""
        self.closed = True

    def refusal(self) -> ServiceError:
        """What a call is told that is not taken."""
        why = "is taking leave" if self.closed else self.shed or "has no room for one more connection"
        return ServiceError(503, "overloaded", f"This gateway {why}: send the call again.", retry_after_s=1)

    async def ended(self, within_s: float) -> bool:
        """Waits until no call is live; False when `within_s` was not enough."""
        self._empty.clear()
        try:
            async with asyncio.timeout(within_s):
                while self._tasks:
                    await self._empty.wait()
                    self._empty.clear()
        except TimeoutError:
            return False
        return True

    def cut(self) -> None:
        """Ends every live call; streams tell their reader that they are not whole."""
        for task in list(self._tasks):
            task.cancel()
