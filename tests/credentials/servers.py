"""Servers that the sandbox has no place for: any handlers on a port, with TLS where a library insists on it."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def listening(handlers: Mapping[str, Handler], tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The origin of a server with these handlers by path, for any method."""
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_route("*", path, handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        (address,) = runner.addresses
        yield f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{address[1]}"
    finally:
        await runner.cleanup()
