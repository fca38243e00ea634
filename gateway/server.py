"""uvicorn as our front: what it does not do by itself. A client that left cancels its call; a broken stream closes.

An offer of another protocol is declined by answering in HTTP/1.1 (RFC 9110, 7.8), and a head has a bound.

Source: uvicorn 0.54 `protocols/http/httptools_impl.py`; the hooks below are all that is used of its inside."""

import asyncio
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import httptools
from uvicorn._types import ASGIVersions
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.errors import error_body

MAX_HEAD_BYTES = 65536
"""What may come of a request's head before it is whole, give or take one read."""
UPGRADE_HEADERS = (b"upgrade", b"connection", b"http2-settings")
UNWANTED_S, UNWANTED = 1.0, 16
"""For so long, and so many at once, connections beyond the bound are kept to be told that there is no room."""
MAX_KNOWN_URL = 128
"""Bytes of a URL that is kept once it was read: nearly every call comes to one of a few."""
ASGI: ASGIVersions = {"version": "3.0", "spec_version": "2.3"}


class Cycle(RequestResponseCycle):
    """One request and its answer, for endpoints that read and answer without ASGI's messages: headers are checked at
    once, the head goes with the first of the body."""

    head = b""
    pieces: list[bytes] = []  # noqa: RUF012  (never this one: the first piece makes one)
    unread_bytes = 0

    @property
    def has_request(self) -> bool:
        """The whole of it is here."""
        return not self.more_body

    def take_body(self) -> bytes:
        """What came of the request's body and was not taken yet."""
        pieces, self.pieces, self.unread_bytes = self.pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def add_body(self, piece: bytes) -> None:
        """More of the request's body came."""
        if self.pieces:
            self.pieces.append(piece)
        else:
            self.pieces = [piece]
        self.unread_bytes += len(piece)
        if self.unread_bytes > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    async def receive(self) -> Any:
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.take_body(), "more_body": self.more_body}

    async def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer; `content-length` is among the headers."""
        await self.begin(status, headers)
        await self.write(body, more=False)

    async def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head of an answer."""
        await self._room()
        self.head = self._begun(status, headers)

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """A piece of the answer's body, once the client took enough of what was written before."""
        await self._room()
        if self.response_complete:
            raise RuntimeError("the answer is whole already")
        if not self.disconnected:
            self._write(body, more=more)

    def close_after_answer(self) -> None:
        """The connection ends with this answer."""
        self.keep_alive = False

    async def _room(self) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    def _begun(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The head of the answer. Raises RuntimeError for one in which a header would become two."""
        lines = [STATUS_LINE[status].removesuffix(b"\r\n")]
        self.chunked_encoding = True
        for name, value in headers:
            if name == b"connection" and value == b"close":
                self.keep_alive = False
                continue
            if name == b"content-length":
                self.chunked_encoding = False
                self.expected_content_length = int(value)
            lines.append(name + b": " + value)
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked")
        if not self.keep_alive:
            lines.append(b"connection: close")
        head = b"\r\n".join([*lines, b"", b""])
        if not head.count(b"\r") == head.count(b"\n") == len(lines) + 1 or b"\0" in head:
            raise RuntimeError("a header of the answer holds a control character")
        self.response_started = True
        self.waiting_for_100_continue = False
        return head

    def _write(self, body: bytes, *, more: bool) -> None:
        head, self.head = self.head, b""
        if not self.chunked_encoding:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (self.expected_content_length and not more):
                raise RuntimeError("the answer is not as long as its head says")
            self.transport.write(head + body)
        elif body:
            self.transport.write(b"%b%x\r\n%b\r\n%b" % (head, len(body), body, b"" if more else b"0\r\n\r\n"))
        elif head or not more:
            self.transport.write(head if more else head + b"0\r\n\r\n")
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, path as it came, and query."""
    parts = httptools.parse_url(url)
    return urllib.parse.unquote(parts.path.decode("ascii")), parts.path, parts.query or b""


_known_target = lru_cache(maxsize=256)(_target)


class Protocol(HttpToolsProtocol):
    """One client connection. It stands in each request's scope as `extensions["arriero"]["connection"]`."""

    task: asyncio.Task[Any] | None = None
    in_head = False
    head_bytes = 0
    idle_since = 0.0
    unwanted = False
    cycle: Cycle
    answering: Cycle
    """Whose task began last. Not in the scope: the two would hold each other, and every call wait for the collector."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        beyond = 0 if self.limit_concurrency is None else len(self.connections) - self.limit_concurrency
        if beyond > 0:
            self.unwanted = True
            self.loop.call_later(UNWANTED_S if beyond <= UNWANTED else 0.0, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        else:
            self.head_bytes = self.head_bytes + len(data) if self.in_head else 0
            if self.head_bytes > MAX_HEAD_BYTES:
                self.send_refusal(431, f"The request's head is larger than {MAX_HEAD_BYTES} bytes, the limit here.")

    def _decline(self, rest: bytes) -> None:
        """Reads the request again without its offer; the parser would take its body for the other protocol."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("This is no proxy.")
            return
        lines = [method + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        lines += [name + b": " + value for name, value in self.headers if name not in UPGRADE_HEADERS]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def on_message_begin(self) -> None:
        self.url, self.headers = b"", []
        self.expect_100_continue = False
        self.in_head = True

    def on_headers_complete(self) -> None:
        self.in_head = False
        if not self.parser.should_upgrade():
            self._begin()

    def _begin(self) -> None:
        """Starts to answer, or puts the request behind the one that is being answered."""
        version = self.parser.get_http_version()
        path, raw_path, query = _target(self.url) if len(self.url) > MAX_KNOWN_URL else _known_target(self.url)
        before = self.cycle
        self.cycle = Cycle(
            scope={
                "type": "http",
                "asgi": ASGI,
                "http_version": version,
                "method": self.parser.get_method().decode("ascii"),
                "scheme": self.scheme or "http",
                "path": path,
                "raw_path": raw_path,
                "query_string": query,
                "root_path": "",
                "headers": self.headers,
                "client": self.client,
                "server": self.server,
                "state": {},
                "extensions": {"arriero": {"connection": self}},
            },
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.answering = cast(Cycle, cycle)
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        if not self.parser.should_upgrade() and not self.cycle.response_complete:
            self.cycle.add_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.task is not None:
            self.task.cancel()

    def on_response_complete(self) -> None:
        """As uvicorn's, but that the timer of an idle connection is left to run from call to call."""
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again_in(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        if self.transport.is_closing():
            super()._unset_keepalive_if_required()

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that was idle for long enough; looks again later at one that was not."""
        self.timeout_keep_alive_task = None
        left_s = self.idle_since + self.timeout_keep_alive - self.loop.time()
        if self.cycle is not None and not self.cycle.response_complete:
            self._look_again_in(self.timeout_keep_alive)
        elif left_s > 0.001:
            self._look_again_in(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def cancel_when_lost(self, task: asyncio.Task[Any] | None) -> None:
        """The task that is answering on this connection; None when it no longer minds."""
        self.task = task

    def read_on(self) -> None:
        """After a whole request: uvicorn stops reading at 64 KiB of body and would not see that the client left."""
        if not self.pipeline:
            self.flow.resume_reading()

    @property
    def backlogged(self) -> bool:
        """The client reads more slowly than it is answered."""
        return self.flow.write_paused

    async def read_up(self) -> None:
        """Waits until the client has read nearly all that was written."""
        await self.flow.drain()

    @property
    def lost(self) -> bool:
        return self.transport.is_closing()

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """The connection is cut if the block has not ended by then: its peer does not read."""
        timer = self.loop.call_later(seconds, self.transport.abort)
        try:
            yield
        finally:
            timer.cancel()

    def send_400_response(self, msg: str) -> None:
        self.send_refusal(400, msg)

    def send_refusal(self, status: int, message: str) -> None:
        """An answer to what is no request; the connection ends with it."""
        body = error_body(message, "invalid_request_error", None, "invalid_request")
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
