"""One request to a hot path and its answer, in plain calls: what ASGI's messages would cost is spared.

Rule 1. What is here is taken at once; an answer is written into the buffer, and only `more` and `room` wait.
Rule 2. A head whose headers would become others is never sent, nor a body of another length than its head says."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

_STATUS_LINES = {status: line.removesuffix(b"\r\n") for status, line in STATUS_LINE.items()}


class Cancellable(Protocol):
    """Who is to be told that the client left: a task, say."""

    def cancel(self) -> object: ...


class ClientConnection(Protocol):
    """Where a request came from: protocol.py's Protocol."""

    transport: asyncio.Transport
    flow: FlowControl
    task: Cancellable | None
    unwanted: bool

    @property
    def lost(self) -> bool: ...

    def read_on(self) -> None: ...

    def at_most(self, seconds: float) -> AbstractContextManager[None]: ...

    def cancel_when_lost(self, task: Cancellable | None) -> None: ...

    def on_response_complete(self) -> None: ...

    def send_refusal(self, status: int, message: str) -> None: ...


class Cycle:
    """One request and its answer. The names that uvicorn's own cycle has too are asked by its protocol."""

    __slots__ = (
        "_chunked", "_event", "_head", "_left", "_pieces", "_unread_bytes", "connection", "disconnected", "headers",
        "keep_alive", "more_body", "response_complete", "response_started", "task", "waiting_for_100_continue",
    )  # fmt: skip

    def __init__(
        self, connection: ClientConnection, headers: Mapping[bytes, bytes], *, keep_alive: bool, expects_100: bool
    ) -> None:
        self.connection, self.headers = connection, headers
        self.keep_alive, self.waiting_for_100_continue = keep_alive, expects_100
        self.task: asyncio.Task[None]
        self.more_body, self.disconnected, self.response_complete = True, False, False
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._event: asyncio.Event | None = None
        self._head = b""
        self._left = 0  # of a body whose length the head says
        self._chunked = self.response_started = False

    @property
    def message_event(self) -> asyncio.Event:
        """Set when more of the request came, or the client left; uvicorn's name for it."""
        if self._event is None:
            self._event = asyncio.Event()
        return self._event

    def take_body(self) -> bytes:
        """What came of the request's body and was not taken yet."""
        pieces, self._pieces, self._unread_bytes = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def more(self) -> bytes:
        """The next of the request's body, b"" at its end or when the client left."""
        if self.waiting_for_100_continue and not self.connection.transport.is_closing():
            self.connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        while not self._pieces and self.more_body and not self.disconnected:
            self.connection.flow.resume_reading()
            self.message_event.clear()
            await self.message_event.wait()
        return self.take_body()

    def add_body(self, piece: bytes) -> None:
        """More of the request's body came."""
        self._pieces.append(piece)
        self._unread_bytes += len(piece)
        if self._unread_bytes > HIGH_WATER_LIMIT:
            self.connection.flow.pause_reading()
        if self._event is not None:
            self._event.set()

    def end_body(self) -> None:
        """All of the request is here."""
        self.more_body = False
        if self._event is not None:
            self._event.set()

    def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer; `content-length` is among the headers."""
        self.begin(status, headers)
        self.write(body, more=False)

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head of an answer. Raises RuntimeError for one in which a header would become two."""
        lines = [_STATUS_LINES[status]]
        self._chunked = True
        for name, value in headers:
            if name == b"connection" and value == b"close":
                self.keep_alive = False
                continue
            if name == b"content-length":
                self._chunked = False
                self._left = int(value)
            lines.append(name + b": " + value)
        if self._chunked:
            lines.append(b"transfer-encoding: chunked")
        if not self.keep_alive:
            lines.append(b"connection: close")
        head = b"\r\n".join([*lines, b"", b""])
        if not head.count(b"\r") == head.count(b"\n") == len(lines) + 1 or b"\0" in head:
            raise RuntimeError("a header of the answer holds a control character")
        self.waiting_for_100_continue = False
        self._head = head

    def write(self, body: bytes, *, more: bool = True) -> None:
        """A piece of the answer's body, into the buffer: a long answer waits for `room` before each."""
        if self.response_complete:
            raise RuntimeError("the answer is whole already")
        if self.disconnected:
            return
        head, self._head = self._head, b""
        self.response_started = True
        transport = self.connection.transport
        if not self._chunked:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the answer is not as long as its head says")
            transport.write(head + body)
        elif body:
            transport.write(b"%b%x\r\n%b\r\n%b" % (head, len(body), body, b"" if more else b"0\r\n\r\n"))
        elif head or not more:
            transport.write(head if more else head + b"0\r\n\r\n")
        if not more:
            self.response_complete = True
            if not self.keep_alive:
                transport.close()
            self.connection.on_response_complete()

    def ended(self, task: asyncio.Task[None]) -> None:
        """Its task ended. A client gets an end in any case, also by a bug of ours."""
        if self.response_complete or self.disconnected:
            return
        if self.response_started:
            self.connection.transport.abort()
        else:
            self.connection.send_refusal(500, "The gateway failed on this request.")

    def close_after_answer(self) -> None:
        """The connection ends with this answer."""
        self.keep_alive = False

    @property
    def backlogged(self) -> bool:
        """The client reads more slowly than it is answered."""
        return self.connection.flow.write_paused and not self.disconnected

    async def room(self) -> None:
        """Waits until the client has read nearly all that was written."""
        await self.connection.flow.drain()


Hot = Callable[[Cycle], Coroutine[Any, Any, None]]
"""An endpoint of a hot path."""
