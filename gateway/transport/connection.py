"""One connection to an upstream: a request out, its answer in, a deadline for every phase; not who may use it.

Rule 1. All waiting is for one future, bounded by one timer that is moved rarely (see `Connection._arm`).
Rule 2. A fault is kept, not thrown, so that what arrived before it can be handed out first.
Rule 3. Unread bytes are bounded: above `max_buffer_bytes` (and one read of the event loop, at most 256 KiB) the socket
        is not read any more, except while somebody waits for the WHOLE answer, which has a bound of its own.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated, NamedTuple, cast

import msgspec

from gateway.errors import FaultKind, UpstreamError
from gateway.transport.http1 import Incoming, Malformed
from gateway.transport.proxy import Proxy
from gateway.types import Frozen

WRITE_SLICE_BYTES = 262_144
MAX_TIMER_S = 3600.0  # a farther deadline is looked at again then
TIMER_SLACK_S = 0.001  # uvloop rounds timers to milliseconds

Clock = Callable[[], float]


Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class Timeouts(Frozen, frozen=True, forbid_unknown_fields=True):
    """Seconds. `connect_s` bounds waiting for a connection, and again opening one with its TLS handshake;
    `first_byte_s` runs from the request being written to the answer's head, `idle_s` between two signs of life,
    `total_s` over all of it."""

    connect_s: Seconds = 1.0
    first_byte_s: Seconds = 60.0
    idle_s: Seconds = 30.0
    total_s: Seconds = 600.0


class Origin(Frozen, frozen=True, kw_only=True):
    """Where to connect (`scheme://host[:port]`) and how. `trust_system`: the system's authorities are good beside those
    of `ca_file`. `idle_lifetime_s` is below the 5 s after which vLLM closes."""

    url: str
    max_connections: int = 1000
    ca_file: str | None = None
    trust_system: bool = False
    proxy: Proxy | None = None
    timeouts: Timeouts = Timeouts()
    idle_lifetime_s: float = 4.0
    max_answer_bytes: int = 64 * 1024 * 1024
    max_buffer_bytes: int = 262_144


class Phase(NamedTuple):
    """What a wait is for, and what it means that it was too long."""

    reached: Callable[["Connection", Incoming], bool]
    kind: FaultKind
    text: str


ROOM = Phase(
    lambda connection, incoming: incoming.headed or not connection.write_paused,
    "first_byte_timeout",
    "took no more of the request",
)
HEAD = Phase(lambda connection, incoming: incoming.headed, "first_byte_timeout", "sent no answer")
PIECE = Phase(lambda connection, incoming: bool(incoming.pieces), "idle_timeout", "sent no data")
WHOLE = Phase(
    lambda connection, incoming: incoming.received_bytes > connection.origin.max_answer_bytes,
    "idle_timeout",
    "sent no data",
)


class Connection(asyncio.Protocol):
    """One socket. Owned by whoever leased it, or by the pool while it is `parked`."""

    __slots__ = (
        "_allowed_s",
        "_began",
        "_clock",
        "_cut_short",
        "_limit",
        "_lost",
        "_name",
        "_on_gone",
        "_patience",
        "_phase",
        "_read_paused",
        "_timer",
        "_timer_at",
        "_total",
        "_transport",
        "_used",
        "_waiter",
        "expires_at",
        "fault",
        "incoming",
        "leased",
        "origin",
        "parked",
        "write_paused",
    )
    origin: Origin
    write_paused: bool

    def __init__(self, origin: Origin, name: str, clock: Clock, on_gone: Callable[["Connection"], None]) -> None:
        """`name` is host:port for messages; `on_gone` hears of a connection that was lost without anyone waiting."""
        self.origin, self._name, self._clock, self._on_gone = origin, name, clock, on_gone
        self.incoming: Incoming | None = None
        self.fault: UpstreamError | None = None
        self.leased = self.parked = False
        self.expires_at = 0.0
        self._transport: asyncio.Transport
        self._lost = self._used = self._cut_short = False
        self._read_paused = self.write_paused = False
        self._phase = HEAD
        self._began = self._total = self._allowed_s = 0.0
        self._limit = self._patience = float("inf")
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # For whoever leased it

    async def exchange(self, head: bytes, body: bytes, began: float, total: float) -> Incoming:
        """Send a request and wait for the head of the answer, which may come before all of the request went out."""
        if not self.usable:
            kind: FaultKind = "stale" if self._used else "closed"
            raise UpstreamError(kind, f"{self._name} closed the connection before it was asked", sent=False)
        incoming = self.incoming = Incoming(bodiless=head.startswith(b"HEAD "))
        self._began, self._total, self._limit, self._phase = began, total, total, HEAD
        if len(body) <= WRITE_SLICE_BYTES:
            self._transport.write(head + body if body else head)
        else:
            await self._send_slices(incoming, head, memoryview(body))
        if not incoming.headed:
            await self.wait(HEAD, self._clock(), self.origin.timeouts.first_byte_s)
        if not incoming.headed:
            raise self.fault or self._error("closed", "closed the connection")
        if self._transport.get_write_buffer_size():
            self._cut_short = True
        return incoming

    async def _send_slices(self, incoming: Incoming, head: bytes, body: memoryview) -> None:
        """Write no faster than the peer reads; stop at an answer or a fault that comes first."""
        self._transport.write(head)
        for start in range(0, len(body), WRITE_SLICE_BYTES):
            if self.write_paused:
                await self.wait(ROOM, self._clock(), self.origin.timeouts.first_byte_s)
            if incoming.headed or self.fault is not None:
                self._cut_short = True
                return
            self._transport.write(body[start : start + WRITE_SLICE_BYTES])

    async def wait(self, phase: Phase, since: float, allowed_s: float, patience_s: float | None = None) -> None:
        """Until the phase is reached, a fault is known, or the caller's patience is over.

        The fault is made here if `allowed_s` have passed since `since`, or the call's whole time has.
        """
        incoming = self.incoming
        if self.fault is not None or incoming is None or incoming.complete or phase.reached(self, incoming):
            return
        self._phase, self._allowed_s = phase, allowed_s
        self._limit = min(since + allowed_s, self._total)
        self._patience = float("inf") if patience_s is None else self._clock() + patience_s
        self._arm(min(self._limit, self._patience))
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None
            self._limit, self._patience = self._total, float("inf")

    def resume(self) -> None:
        """Read on after the buffer was emptied."""
        if self._read_paused:
            self._read_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def usable(self) -> bool:
        """Whether a request could be sent, as far as is known."""
        return not self._lost and not self._transport.is_closing()

    def retire(self) -> float | None:
        """End an exchange: how long the connection may be kept for another, None if it may not.

        It may if the answer ended by its own framing and nothing is left over on either side.
        """
        incoming, self.incoming = self.incoming, None
        self._used = True
        whole = incoming is not None and incoming.reusable and not self._cut_short and not self._read_paused
        if incoming is None or not whole or self.fault is not None or not self.usable:
            if incoming is not None:
                incoming.release()
            return None
        said_s = incoming.keep_alive_s()
        lifetime_s = self.origin.idle_lifetime_s
        return lifetime_s if said_s is None else min(lifetime_s, said_s - 1.0)

    def sever(self) -> None:
        """Close the socket at once, whatever is in it. Any number of times."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    def fail(self, kind: FaultKind, what: str) -> None:
        """Keep the fault, close the socket, tell who waits."""
        if self.fault is None:
            self.fault = self._error(kind, what)
        self.sever()
        self._wake()

    def _error(self, kind: FaultKind, what: str) -> UpstreamError:
        return UpstreamError(kind, f"{self._name} {what}")

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        incoming = self.incoming
        if incoming is None:  # nobody asked for anything
            self._ended(None)
            return
        try:
            incoming.feed(data)
        except Malformed as error:
            self.fail("protocol", str(error))
            return
        if self._phase is WHOLE:
            self._limit = min(self._total, self._clock() + self._allowed_s)
        elif incoming.buffered_bytes > self.origin.max_buffer_bytes and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
        if self._waiter is not None and (incoming.complete or self._phase.reached(self, incoming)):
            self._wake()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._phase is ROOM:
            self._wake()

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)

    def _ended(self, exc: Exception | None) -> None:
        """Nothing more will come: not after an end of file either, though the event loop would still write."""
        if self._lost:
            return
        self._lost = True
        self.sever()
        incoming = self.incoming
        if incoming is None:
            self._on_gone(self)
            return
        if self.fault is None and not incoming.complete and not (exc is None and incoming.end()):
            self.fault = self._lost_error(exc, incoming)
        self._wake()

    def _lost_error(self, exc: Exception | None, incoming: Incoming) -> UpstreamError:
        if self._used and not incoming.started:
            return self._error("stale", "closed a kept connection before it answered")
        when = "before its answer was whole" if incoming.headed else "before it answered"
        if exc is None:
            return self._error("closed", f"closed the connection {when}")
        return self._error("reset", f"broke the connection {when}")

    # Waiting

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _arm(self, due: float) -> None:
        """Have the timer fire when it is due or before. One set for earlier is left alone and moves on when it fires,
        so a connection in steady use touches its timer once in a long while and not once a request."""
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        delay_s = min(max(0.0, due - self._clock()), MAX_TIMER_S)
        self._timer_at = due
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self.incoming is None:
            return
        now = self._clock() + TIMER_SLACK_S
        if now < min(self._limit, self._patience):
            self._arm(min(self._limit, self._patience))
        elif now < self._limit:
            self._wake()
        elif self._limit >= self._total:
            self._out_of_time()
        else:
            self.fail(self._phase.kind, f"{self._phase.text} within {self._allowed_s:g} s")

    def _out_of_time(self) -> None:
        waited_for = self._waiter is not None
        self.fail("total_timeout", f"was not done within {self._total - self._began:.4g} s")
        if not waited_for:  # whoever leased it may have forgotten it
            self._on_gone(self)
