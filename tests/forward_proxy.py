"""A real forward proxy for tests: tunnels by CONNECT, plain HTTP handed on, credentials checked, over TCP or TLS."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from tests.listening import listening


class ForwardProxy:
    """`asked` are the request lines so far, those that it refused for their credentials among them."""

    def __init__(self, credentials: str | None, tls: ssl.SSLContext | None) -> None:
        self.asked: list[str] = []
        self.port = 0
        self.scheme = "https" if tls else "http"
        self._wanted = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None

    def url(self, userinfo: str = "") -> str:
        return f"{self.scheme}://{userinfo}localhost:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether another request may come on this connection."""
        line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        self.asked.append(line)
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        if headers.pop("proxy-authorization", None) != self._wanted:
            writer.write(b"HTTP/1.1 407 No\r\nproxy-authenticate: Basic realm=x\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return True
        method, target, _ = line.split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        try:
            behind = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            writer.write(b"HTTP/1.1 502 Nobody there\r\ncontent-length: 7\r\n\r\nno good")
            await writer.drain()
            return False
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 forward\r\n\r\n")
        else:
            path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
            said = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            behind[1].write(f"{method} {path} HTTP/1.1\r\n{said}connection: close\r\n\r\n".encode("latin-1"))
        await asyncio.gather(_copy(reader, behind[1]), _copy(behind[0], writer))
        return False


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def forward_proxy(
    credentials: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ForwardProxy]:
    found = ForwardProxy(credentials, tls)
    async with listening(found.serve, tls) as found.port:
        yield found
