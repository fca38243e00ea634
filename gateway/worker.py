"""A thread that does blocking work for the event loop, one piece at a time, and never keeps the process from ending."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """Owns its thread, which begins with the first piece of work."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def do(self, within_s: float, work: Callable[..., T], *of: Any) -> T:
        """What `work(*of)` gives. Raises TimeoutError: the work may then still be done later."""
        future: Future[T] = Future()

        def piece() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work(*of))
            except BaseException as error:  # noqa: BLE001  (it is raised where it is waited for)
                future.set_exception(error)

        if not self._thread.ident:
            self._thread.start()
        self._work.put(piece)
        async with asyncio.timeout(within_s):
            return await asyncio.wrap_future(future)

    def close(self, last: Callable[[], None]) -> None:
        """The thread does this after what it does now, and ends."""
        self._work.put(last)
        self._work.put(None)

    def _run(self) -> None:
        while (piece := self._work.get()) is not None:
            piece()
