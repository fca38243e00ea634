"""One HTTP/1.1 server connection: requests are parsed by h11, answers are bytes, so that they can be wrong."""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from sandbox.types import Request

REASONS = {
    100: "Continue", 200: "OK", 204: "No Content", 301: "Moved Permanently", 302: "Found", 303: "See Other",
    307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 413: "Content Too Large",
    415: "Unsupported Media Type", 422: "Unprocessable Entity", 424: "Failed Dependency", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 498: "Flex Tier Capacity Exceeded", 500: "Internal Server Error",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout", 529: "Overloaded",
}  # fmt: skip
MAX_BODY_BYTES = 64 * 1024 * 1024
_READ_AHEAD_BYTES = 1024 * 1024

Handler = Callable[["Connection", Request], Awaitable[None]]


class Watch(Protocol):
    """Who is told of connections that come and go."""

    def opened(self, connection: "Connection") -> None: ...

    def closed(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """Owns one socket. One task serves one request at a time; bytes that come meanwhile wait.

    As uvicorn does, it waits for a first request as long as the client likes, for the next one keep_alive_s."""

    def __init__(self, number: int, handler: Handler, keep_alive_s: Callable[[], float], watch: Watch) -> None:
        self.number, self._handler, self._keep_alive_s, self._watch = number, handler, keep_alive_s, watch
        self._loop, self.clock = asyncio.get_running_loop(), time.monotonic  # uvloop's own clock ticks in ms
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=256 * 1024)
        self._head: h11.Request | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._waiting = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.keep = True
        self.closed_at: float | None = None

    # ------------------------------------------------------------------ the protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._watch.opened(self)

    def data_received(self, data: bytes) -> None:
        self._stop_idle()
        if self._task is not None:
            self._waiting += data
            if len(self._waiting) > _READ_AHEAD_BYTES:
                self._transport.pause_reading()
            return
        self._parser.receive_data(data)
        self._parse()

    def eof_received(self) -> bool:
        return False  # as uvicorn and most front ends: a client that half-closes is gone

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed_at = self.clock()
        self._stop_idle()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()
        self._watch.closed(self)

    # ------------------------------------------------------------------ reading
    def _parse(self) -> None:
        try:
            while self._step(self._parser.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint or 400, str(error))

    def _step(self, event: object) -> bool:
        """Takes one event of h11; whether there may be another."""
        if isinstance(event, h11.Request):
            self._head, self._body, self._body_bytes = event, [], 0
            if self._parser.they_are_waiting_for_100_continue:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif isinstance(event, h11.Data):
            self._body.append(bytes(event.data))
            self._body_bytes += len(event.data)
            if self._body_bytes > MAX_BODY_BYTES:
                self._refuse(413, "body too large")
                return False
        elif isinstance(event, h11.EndOfMessage) and self._head is not None:
            self._task = self._loop.create_task(self._serve(_request(self._head, b"".join(self._body))))
            return False
        else:
            return False
        return True

    def _refuse(self, status: int, why: str) -> None:
        body = why.encode()
        lines = (
            f"HTTP/1.1 {status} {REASONS.get(status, '')}",
            "content-type: text/plain",
            f"content-length: {len(body)}",
            "connection: close",
        )
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self._transport.close()

    # ------------------------------------------------------------------ serving
    async def _serve(self, request: Request) -> None:
        assert self._head is not None
        self.keep = self._head.http_version == b"1.1" and "close" not in request.headers.get("connection", "").lower()
        try:
            await self._handler(self, request)
        finally:
            self._task = None
        if self.closed_at is None:
            self._next()

    def _next(self) -> None:
        """Makes ready for the next request on this connection, or closes it."""
        if not self.keep or self._keep_alive_s() <= 0:
            self._transport.close()
            return
        left = self._parser.trailing_data[0] + bytes(self._waiting)
        self._waiting.clear()
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=256 * 1024)
        self._transport.resume_reading()
        self._start_idle()
        if left:
            self._stop_idle()
            self._parser.receive_data(left)
            self._parse()

    def _start_idle(self) -> None:
        self._stop_idle()
        self._idle = self._loop.call_later(self._keep_alive_s(), self._transport.close)

    def _stop_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    # ------------------------------------------------------------------ writing
    def write(self, data: bytes) -> None:
        self._transport.write(data)

    async def flush(self) -> None:
        """Waits until the kernel has everything."""
        self._transport.set_write_buffer_limits(high=0)
        await self.drain()
        self._transport.set_write_buffer_limits()

    async def drain(self) -> None:
        """Waits while the client reads more slowly than we write."""
        if not self._writable.is_set():
            await self._writable.wait()

    def close(self) -> None:
        """FIN after what was written."""
        self.keep = False
        self._transport.close()

    def reset(self) -> None:
        """RST at once; what the kernel has not sent is lost."""
        self.keep = False
        if self.closed_at is not None:
            return
        sock = cast(socket.socket, self._transport.get_extra_info("socket"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def gone(self) -> None:
        """Waits until the client leaves (the task is then cancelled)."""
        await self._loop.create_future()


def _request(head: h11.Request, body: bytes) -> Request:
    headers: dict[str, str] = {}
    for name, value in head.headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    target = urlsplit(head.target.decode("latin-1"))
    query = dict(parse_qsl(target.query, keep_blank_values=True)) if target.query else {}
    return Request(method=head.method.decode(), path=target.path or "/", query=query, headers=headers, body=body)


def segments(path: str) -> list[str]:
    """The decoded parts of a path."""
    return [unquote(part) for part in path.strip("/").split("/")]
