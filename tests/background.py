"""A gateway in a thread of its own, for clients that block the one they are in."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from tests.harness import Served, serving


@contextlib.contextmanager
def background(config: str | dict[str, Any]) -> Iterator[Served]:
    """A gateway for a config, in its own loop, until the block ends."""
    started, found, stop = threading.Event(), [], []

    async def live() -> None:
        ended = asyncio.Event()
        try:
            async with serving(config) as served:
                loop = asyncio.get_running_loop()
                stop.append(lambda: loop.call_soon_threadsafe(ended.set))
                found.append(served)
                started.set()
                await ended.wait()
        finally:
            started.set()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="gateway", daemon=True)
    thread.start()
    started.wait()
    assert found, "the gateway did not start"
    try:
        yield found[0]
    finally:
        stop[0]()
        thread.join()
