"""A listening socket and what is connected to it: begun, left to whoever runs it, ended without cutting words off."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from gateway.front.protocol import Protocol

POLL_S = 0.005


class Server(uvicorn.Server):
    """A server that leaves signals to the one who runs it, and sleeps until it is told to end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Ends `serve`, once."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        await self._leaving.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes what listens and what is idle, and lets what is written already leave the buffers."""
        for listener in self.servers:
            listener.close()
        for sock in sockets or []:
            sock.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.server_state.connections:  # noqa: ASYNC110  (uvicorn has no event for it)
                    await asyncio.sleep(POLL_S)
        for task in list(self.server_state.tasks):
            task.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server(app: Any, keep_alive_s: int = 75, connections: int | None = None) -> Server:
    """A server for an ASGI app and at most so many `connections`; give it a bound socket with `serve(sockets=[…])`."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=keep_alive_s,
        limit_concurrency=connections,
        timeout_graceful_shutdown=1,
        backlog=4096,
    )
    return Server(config)
