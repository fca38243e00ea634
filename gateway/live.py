"""The calls being answered, and taking leave: ready, draining, cutting. Owns that state.

Rule 1. From the first SIGTERM on the gateway is not ready, and every answer says `connection: close`.
Rule 2. Live calls run to their end within the grace period; those cut after it are told so.
"""

import asyncio
from typing import Any

from prometheus_client import Gauge

Task = asyncio.Task[Any]
HEARD_S = 60.0
MOST_HEARD = 100
"""How long, and how many at once, calls go on whose client left and whose cloud is paid to the end all the same."""


class Live:
    """Which calls are live."""

    def __init__(self, in_flight: Gauge, draining: Gauge) -> None:
        self._tasks: set[Task] = set()
        in_flight.set_function(lambda: len(self._tasks))
        self._heard: set[Task] = set()
        self._draining = draining
        self._empty = asyncio.Event()  # set whenever the last live call ends
        self.draining = self.closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def tasks(self) -> frozenset[Task]:
        """The live calls."""
        return frozenset(self._tasks)

    def begin(self, task: Task) -> None:
        """A call is live, until `end`."""
        self._tasks.add(task)

    def end(self, task: Task) -> None:
        """Any number of times."""
        self._tasks.discard(task)
        if not self._tasks:
            self._empty.set()

    def hear_out(self, task: Task) -> bool:
        """Lets a call go on whose client left; False when as many do as may."""
        if len(self._heard) >= MOST_HEARD:
            return False
        timer = asyncio.get_running_loop().call_later(HEARD_S, task.cancel)
        self._heard.add(task)
        task.add_done_callback(lambda _: timer.cancel())
        task.add_done_callback(self._heard.discard)
        return True

    def drain(self) -> None:
        """Readiness fails from now on."""
        self.draining = True
        self._draining.set(1)

    def close(self) -> None:
        """New calls are refused from now on."""
        self.closed = True

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
