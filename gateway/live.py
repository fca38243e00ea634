"""The calls being answered, and taking leave: ready, draining, cutting. Owns that state.

Rule 1. From the first SIGTERM on the gateway is not ready, and every answer says `connection: close`.
Rule 2. Live calls run to their end within the grace period; those cut after it are told so.
Rule 3. Calls may also be shed for a while (vitals/ says when and why): refused as long as they have gone nowhere.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import Gauge

from gateway.errors import ServiceError

Task = asyncio.Task[Any]
HEARD_S = 60.0
MOST_HEARD = 100
"""How long, and how many at once, calls go on whose client left and whose cloud is paid to the end all the same."""
COPIES = 4
"""Of a body at the most: its pieces and the whole; or the whole, what a cloud is sent, and what is not written yet."""
SEEN_S = 0.3
"""After that long what a body takes has been seen in the memory that is used."""


class Live:
    """Which calls are live."""

    def __init__(self, in_flight: Gauge, draining: Gauge) -> None:
        self._tasks: set[Task] = set()
        in_flight.set_function(lambda: len(self._tasks))
        self._heard: set[Task] = set()
        self._draining = draining
        self._empty = asyncio.Event()  # set whenever the last live call ends
        self.draining = self.closed = False
        self.shed = ""  # why calls are refused at present
        self.late: Callable[[], bool] = bool
        self.room: Callable[[int], bool] = lambda size_bytes: True
        self._coming_bytes = 0

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

    def refusal(self, why: str = "has no room for one more connection") -> ServiceError:
        """What a call is told that is not taken."""
        why = "is taking leave" if self.closed else self.shed or why
        return ServiceError(503, "overloaded", f"This gateway {why}: send the call again.", retry_after_s=1)

    @contextlib.contextmanager
    def body(self, size_bytes: int) -> Iterator[None]:
        """While so large a body comes. Raises ServiceError where memory has no room for it and those that come already:
        what a large call needs it needs at once, between two looks at the memory."""
        if not self.room(COPIES * (self._coming_bytes + size_bytes)):
            raise self.refusal("is short of memory")
        self._coming_bytes += size_bytes
        try:
            yield
        finally:
            asyncio.get_running_loop().call_later(SEEN_S, self._came, size_bytes)

    def _came(self, size_bytes: int) -> None:
        self._coming_bytes -= size_bytes

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
