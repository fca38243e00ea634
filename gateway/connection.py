"""One connection to an upstream: a request out, its answer in, a deadline for every phase; not who may use it.

Rule 1. All waiting is for one future, bounded by one timer that is moved rarely (see `Connection._arm`).
Rule 2. A fault is kept, not thrown, so that what arrived before it can be handed out first.
Rule 3. Unread bytes are bounded: above the bound the socket is not read, except for `WHOLE`, which has its own.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from gateway.errors import FaultKind, UpstreamError
from gateway.http1 import Incoming, Malformed
from gateway.types import Frozen

Clock = Callable[[], float]

WRITE_SLICE_BYTES = 262_144
MAX_TIMER_S = 3600.0  # a farther deadline is looked at again then
TIMER_SLACK_S = 0.001  # event loops round timers to milliseconds

# What a wait is for.
HEAD, PIECE, WHOLE, ROOM = range(4)


class Timeouts(Frozen, frozen=True):
    """Seconds. `connect_s` bounds waiting for a connection, and again opening one with its TLS handshake;
    `first_byte_s` runs from the request being written to the answer's head, `idle_s` between two signs of life,
    `total_s` over all of it."""

    connect_s: float = 1.0
    first_byte_s: float = 60.0
    idle_s: float = 30.0
    total_s: float = 600.0


class Origin(Frozen, frozen=True, kw_only=True):
    """Where to connect (`scheme://host[:port]`) and how. `idle_lifetime_s` is below the 5 s after which vLLM closes."""

    url: str
    max_connections: int = 1000
    ca_file: str | None = None
    timeouts: Timeouts = Timeouts()
    idle_lifetime_s: float = 4.0
    max_answer_bytes: int = 64 * 1024 * 1024
    max_buffer_bytes: int = 262_144


class Connection(asyncio.Protocol):
    """One socket and the answer that is coming in on it. Owned by whoever leased it, or by the pool."""

    __slots__ = (
        "_began",
        "_clock",
        "_forget",
        "_goal",
        "_limit",
        "_name",
        "_origin",
        "_read_paused",
        "_timeouts",
        "_timer",
        "_timer_at",
        "_total",
        "_waiter",
        "_write_paused",
        "expires_at",
        "fault",
        "incoming",
        "leased",
        "lost",
        "parked",
        "transport",
        "used",
    )
    transport: asyncio.Transport

    def __init__(self, origin: Origin, name: str, clock: Clock, forget: "Callable[[Connection], None]") -> None:
        """`name` is host:port for messages; `forget` is called when the peer closes while the pool has it."""
        self._origin, self._name, self._clock, self._forget = origin, name, clock, forget
        self._timeouts = origin.timeouts
        self.incoming: Incoming | None = None
        self.fault: UpstreamError | None = None
        self.leased = self.parked = self.lost = self.used = False
        self.expires_at = 0.0
        self._read_paused = self._write_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._goal = HEAD
        self._began = self._total = self._limit = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # The lease

    async def exchange(self, head: bytes, body: bytes, began: float, total: float) -> Incoming:
        """Send a request and wait for the head of the answer. Raises UpstreamError."""
        incoming = self.incoming = Incoming(bodiless=head.startswith(b"HEAD "))
        self._began, self._total = began, total
        if len(body) <= WRITE_SLICE_BYTES:
            self.transport.write(head + body if body else head)
        else:
            await self._send_slices(head, memoryview(body))
        if not incoming.headed:
            await self.wait(HEAD, self._clock() + self._timeouts.first_byte_s)
            if not incoming.headed:
                raise self.fault or self._error("closed", "closed the connection")
        return incoming

    async def _send_slices(self, head: bytes, body: memoryview) -> None:
        """Write no faster than the peer reads, and stop at an answer or a fault that comes first."""
        self.transport.write(head)
        for start in range(0, len(body), WRITE_SLICE_BYTES):
            if self._write_paused:
                await self.wait(ROOM, self._clock() + self._timeouts.first_byte_s)
            if self.fault is not None or self.incoming is None or self.incoming.headed:
                self.used = True
                self._write_paused = True  # never reused: the request is not whole
                return
            self.transport.write(body[start : start + WRITE_SLICE_BYTES])

    async def wait(self, goal: int, limit: float) -> None:
        """Until the goal is reached or a fault is known, at most until `limit` (and the end of the call)."""
        self._goal = goal
        if self.fault is not None or self._reached():
            return
        self._limit = limit = min(limit, self._total)
        self._arm(limit)
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None
            self._limit = self._total

    def resume(self) -> None:
        if self._read_paused:
            self._read_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def fit(self) -> bool:
        """Whether another request may follow: the answer is whole and nothing is left over on either side."""
        incoming = self.incoming
        return (
            incoming is not None
            and incoming.reusable
            and self.fault is None
            and not self.lost
            and not self._read_paused
            and not self._write_paused
            and not self.transport.is_closing()
            and self.transport.get_write_buffer_size() == 0
        )

    def sever(self) -> None:
        """Close the socket at once, whatever is in it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.lost:
            self.transport.abort()

    def fail(self, kind: FaultKind, what: str) -> None:
        if self.fault is None:
            self.fault = self._error(kind, what)
        self.sever()
        self._wake()

    def _error(self, kind: FaultKind, what: str) -> UpstreamError:
        return UpstreamError(kind, f"{self._name} {what}")

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        incoming = self.incoming
        if incoming is None:  # nobody asked for anything
            self.transport.abort()
            return
        try:
            incoming.feed(data)
        except Malformed as error:
            self.fail("protocol", f"answered wrongly: {error}")
            return
        if self._goal == WHOLE:
            self._limit = min(self._total, self._clock() + self._timeouts.idle_s)
        elif incoming.buffered_bytes > self._origin.max_buffer_bytes and not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()
        if self._waiter is not None and self._reached():
            self._wake()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._goal == ROOM:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.sever()
        incoming = self.incoming
        if self.parked:
            self._forget(self)
        if incoming is None:
            return
        if self.fault is None and not incoming.complete and not (exc is None and incoming.end()):
            self.fault = self._lost_error(exc, incoming)
        self._wake()

    def _lost_error(self, exc: Exception | None, incoming: Incoming) -> UpstreamError:
        if not incoming.started and self.used:
            return self._error("stale", "closed a kept connection before it answered")
        when = "before the answer was whole" if incoming.headed else "before it answered"
        if exc is None:
            return self._error("closed", f"closed the connection {when}")
        return self._error("reset", f"broke the connection {when}")

    # Waiting

    def _reached(self) -> bool:
        incoming = self.incoming
        if incoming is None or incoming.complete:
            return True
        match self._goal:
            case 0:  # HEAD
                return incoming.headed
            case 1:  # PIECE
                return bool(incoming.pieces)
            case 2:  # WHOLE
                return incoming.received_bytes > self._origin.max_answer_bytes
            case _:  # ROOM
                return incoming.headed or not self._write_paused

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _arm(self, limit: float) -> None:
        """Have the timer fire at `limit` or before. One set for earlier is left alone and moves on when it fires, so a
        connection in steady use touches its timer once in a long while and not once a request."""
        if self._timer is not None:
            if self._timer_at <= limit:
                return
            self._timer.cancel()
        delay_s = min(max(0.0, limit - self._clock()), MAX_TIMER_S)
        self._timer_at = limit
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self.leased or self.incoming is None:
            return
        if self._clock() + TIMER_SLACK_S < self._limit:
            self._arm(self._limit)
            return
        timeouts = self._timeouts
        if self._limit >= self._total:
            self.fail("total_timeout", f"was not done within {self._total - self._began:g} s")
        elif self._goal == HEAD:
            self.fail("first_byte_timeout", f"sent no answer within {timeouts.first_byte_s:g} s")
        elif self._goal == ROOM:
            self.fail("first_byte_timeout", f"took no more of the request within {timeouts.first_byte_s:g} s")
        else:
            self.fail("idle_timeout", f"sent no data within {timeouts.idle_s:g} s")
