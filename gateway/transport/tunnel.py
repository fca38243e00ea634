"""A TLS connection through a forward proxy: CONNECT, its answer, and the handshake with the server behind it.

Rule 1. Every deadline is the dialler's: this is cancelled when the time is over, and leaves no socket open.
Rule 2. A proxy's answer is shown by its status alone.

Source: RFC 9110, 9.3.6."""

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from gateway.errors import UpstreamError
from gateway.transport.proxy import Proxy

MAX_HEAD_BYTES = 16_384
MEANINGS = {
    403: "it does not allow this",
    407: "it wants other credentials: 'proxy' takes user:password@ before the host",
    502: "it cannot reach it",
    503: "it cannot reach it",
    504: "it cannot reach it in time",
}
P = TypeVar("P", bound=asyncio.Protocol)
_status_line = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r\n").match


class Answer(asyncio.Protocol):
    """What the proxy says to CONNECT. `status` is the answer's, 0 for one that is not HTTP.

    `spoiled` is set by anything that comes after it but before the connection is handed on."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.spoiled = False
        self._data = b""

    def data_received(self, data: bytes) -> None:
        if self.status.done():
            self.spoiled = True
            return
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0 and len(self._data) <= MAX_HEAD_BYTES and b"HTTP/1."[: len(self._data)] == self._data[:7]:
            return
        line = _status_line(self._data) if end >= 0 else None
        status = int(line[1]) if line else 0
        self.spoiled = status < 300 and end + 4 < len(self._data)
        self.status.set_result(status)

    def eof_received(self) -> None:
        self._ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()

    def _ended(self) -> None:
        self.spoiled = True
        if not self.status.done():
            self.status.set_exception(ConnectionResetError())
            self.status.exception()  # whoever waited for it may have been cancelled


class Tunnel(NamedTuple):
    """The way to one server: `name` is its host:port as CONNECT says it, `host` what its certificate must be for."""

    proxy: Proxy
    name: str
    host: str
    context: ssl.SSLContext

    async def through(
        self, transport: asyncio.Transport, answer: Answer, make: Callable[[], P]
    ) -> tuple[asyncio.Transport, P]:
        """The server's connection, over one to the proxy. Raises UpstreamError and OSError."""
        try:
            transport.write(self._request())
            await self._agreed(answer)
            loop = asyncio.get_running_loop()
            secured = await loop.start_tls(transport, answer, self.context, server_hostname=self.host)
            if secured is None or answer.spoiled:
                raise ConnectionResetError
            protocol = make()
            secured.set_protocol(protocol)
            protocol.connection_made(secured)
        except BaseException:
            transport.abort()
            raise
        return secured, protocol

    def _request(self) -> bytes:
        said = self.proxy.authorization()
        credentials = f"proxy-authorization: {said}\r\n" if said else ""
        head = f"CONNECT {self.name} HTTP/1.1\r\nhost: {self.name}\r\nuser-agent: arriero\r\n{credentials}\r\n"
        return head.encode("ascii")

    async def _agreed(self, answer: Answer) -> None:
        try:
            status = await answer.status
        except ConnectionResetError:
            raise self._refused("closed the connection before it answered CONNECT") from None
        if status == 0:
            raise self._refused("answered CONNECT with something that is not HTTP/1.1")
        if not 200 <= status < 300:
            meaning = f" ({MEANINGS[status]})" if status in MEANINGS else ""
            raise self._refused(f"answered CONNECT with {status}{meaning}")
        if answer.spoiled:
            raise self._refused("sent more than its answer to CONNECT")

    def _refused(self, what: str) -> UpstreamError:
        return UpstreamError("proxy", f"{self.name}: the proxy {self.proxy.name} {what}", sent=False)
