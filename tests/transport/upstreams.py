"""Upstreams of the transport's tests: servers on loopback that do, byte for byte, what a script says."""

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self

from gateway.errors import UpstreamError
from gateway.transport.client import Client, Origin, Response, request_head

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
PATIENCE_S = 20.0  # for what must happen at once; long only because the machine may be busy


class ClientOf(Protocol):
    def __call__(self, origin: Origin, clock: Callable[[], float] | None = None) -> Client: ...


class Peer:
    """The server's end of one connection; `number` counts connections from 1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer, self.number = reader, writer, number

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self) -> bytes:
        """A whole request; raises IncompleteReadError when the client closed instead."""
        head = await self.head()
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return head + await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, data: bytes = OK) -> bytes:
        request = await self.request()
        await self.send(data)
        return request

    def reset(self) -> None:
        """Close with RST."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Until the client has closed."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Peer], Awaitable[None]]


class Upstream:
    """A server on loopback that runs a script for every connection and closes the connection after it."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script, self._tls = script, tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.ended = asyncio.Condition()
        self.port = 0

    @property
    def live(self) -> int:
        """Connections whose script has not ended."""
        return len(self._tasks)

    def origin(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop_listening(self) -> None:
        self._server.close()

    async def until_live(self, count: int) -> None:
        async with self.ended:
            await asyncio.wait_for(self.ended.wait_for(lambda: self.live <= count), PATIENCE_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._script(Peer(reader, writer, self.accepted))
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            async with self.ended:
                self.ended.notify_all()


async def answering(peer: Peer) -> None:
    """The script of a healthy upstream."""
    while True:
        await peer.answer()


def saying(answer: bytes) -> Script:
    """The same answer to every request of a connection that stays open."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.answer(answer)

    return script


def saying_once(answer: bytes) -> Script:
    """One answer, then the connection is closed."""

    async def script(peer: Peer) -> None:
        await peer.answer(answer)

    return script


def head_of(target: str = "/", size: int = 0, method: str = "POST") -> bytes:
    return request_head(method, target, "upstream.test", [("accept-encoding", "identity")], size)


async def send(client: Client, body: bytes = b"", *, method: str = "POST", within_s: float = PATIENCE_S) -> Response:
    return await client.request(head_of(size=len(body), method=method), body, client.clock() + within_s)


async def ask(client: Client, body: bytes = b"") -> bytes:
    """The body of a whole answer."""
    response = await send(client, body)
    try:
        return await response.read()
    finally:
        await response.aclose()


async def chunks(response: Response) -> tuple[bytes, UpstreamError | None]:
    """What a stream gave, and the error that ended it."""
    got: list[bytes] = []
    try:
        while data := await response.chunk():
            response.alive()
            got.append(data)
    except UpstreamError as error:
        return b"".join(got), error
    finally:
        await response.aclose()
    return b"".join(got), None


def open_files() -> int:
    """How many file descriptors this process has, sockets among them."""
    return len(os.listdir("/proc/self/fd"))


async def failure(work: Awaitable[object]) -> UpstreamError:
    try:
        await work
    except UpstreamError as error:
        return error
    raise AssertionError("it did not fail")
