"""The HTTP/1.1 client to upstreams: a pool per origin, answers read whole or piece by piece.

Rule 1. A lease ends once: the connection goes to the pool if its answer ended cleanly, else its socket is aborted.
Rule 2. A cancelled call closes its socket in the same turn of the event loop.
Rule 3. A kept connection that closes before a byte of the answer is nobody's failure: once, a fresh one is tried.
"""

import asyncio
import time
from typing import NoReturn

from gateway.errors import UpstreamError
from gateway.transport.connection import PIECE, TIMER_SLACK_S, WHOLE, Clock, Connection, Origin, Phase, Timeouts
from gateway.transport.dial import Dialer, Trust
from gateway.transport.forward import HandedOn
from gateway.transport.http1 import Incoming, begun_head, ended_head, request_head
from gateway.transport.pool import Pool

__all__ = ["Client", "Origin", "Response", "Timeouts", "begun_head", "ended_head", "request_head"]


class Response:
    """The answer to one request and the lease of its connection. Header names are lower-case, repeated ones joined."""

    __slots__ = ("_alive_at", "_client", "_connection", "_fault", "_incoming", "headers", "status")

    def __init__(self, client: "Client", connection: Connection, incoming: Incoming) -> None:
        self._client = client
        self._connection: Connection | None = connection
        self._incoming = incoming
        self._fault: UpstreamError | None = None
        self._alive_at = client.clock()
        self.status = incoming.status
        self.headers = incoming.headers

    async def read(self) -> bytes:
        """The whole body. Every byte is a sign of life here. Raises UpstreamError, `too_large` among others."""
        incoming, limit_bytes = self._incoming, self._client.origin.max_answer_bytes
        while (connection := self._connection) is not None:
            announced = 0 if incoming.complete else incoming.length or 0
            if max(incoming.received_bytes, announced) > limit_bytes:
                connection.fail("too_large", f"sent an answer of more than {limit_bytes} bytes")
            elif incoming.complete:
                self.close()
                return incoming.take()
            if connection.fault is not None:
                self._raise(connection.fault)
            connection.resume()
            await self._wait(connection, WHOLE, None, None)
        return self._ended()

    async def chunk(self, idle_s: float | None = None) -> bytes:
        """All body that is here, or the next that comes; b"" at the clean end. Raises UpstreamError.

        Waits until `idle_s` (the origin's unless given) after the last sign of life, which is `alive` being called.
        """
        incoming = self._incoming
        while (connection := self._connection) is not None:
            if incoming.complete:
                self.close()
                return incoming.take()
            if incoming.pieces:
                connection.resume()
                return incoming.take()
            if connection.fault is not None:
                self._raise(connection.fault)
            await self._wait(connection, PIECE, idle_s, None)
        return self._ended()

    async def ready(self, patience_s: float, idle_s: float | None = None) -> bool:
        """Whether `chunk` would not wait, after waiting at most `patience_s` here; takes nothing and raises nothing.

        For whoever has something to say to the client while the upstream is silent.
        """
        connection = self._connection
        if connection is not None and not self._would_not_wait(connection):
            await self._wait(connection, PIECE, idle_s, patience_s)
            return self._would_not_wait(connection)
        return True

    def alive(self) -> None:
        """Real data was seen: the idle limit starts anew."""
        self._alive_at = self._client.clock()

    def close(self) -> None:
        """Give the connection back, or close it at once if the answer has not ended. Any number of times."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.give_back(connection)

    async def aclose(self) -> None:
        """The same as `close`."""
        self.close()

    def _would_not_wait(self, connection: Connection) -> bool:
        return bool(self._incoming.pieces) or self._incoming.complete or connection.fault is not None

    async def _wait(self, connection: Connection, phase: Phase, idle_s: float | None, patience_s: float | None) -> None:
        allowed_s = self._client.timeouts.idle_s if idle_s is None else idle_s
        try:
            await connection.wait(phase, self._alive_at, allowed_s, patience_s)
        except BaseException:
            self.close()
            raise

    def _raise(self, fault: UpstreamError) -> NoReturn:
        self._fault = fault
        self.close()
        raise fault

    def _ended(self) -> bytes:
        if self._fault is not None:
            raise self._fault
        if not self._incoming.complete:
            raise UpstreamError("closed", f"{self._client.name}: the answer was closed by the gateway")
        return b""


class Client:
    """Requests to one origin. The only owner of its pool."""

    def __init__(self, origin: Origin, clock: Clock = time.monotonic) -> None:
        self.origin = origin
        self.timeouts = origin.timeouts
        self.clock = clock
        self._dialer = Dialer(origin.url, Trust(origin.ca_file, origin.trust_system), origin.proxy)
        plain = origin.proxy is not None and origin.url.startswith("http:")
        self._kind: type[Connection] = HandedOn if plain else Connection
        self.name = self._dialer.name
        self._pool: Pool[Connection] = Pool(origin.max_connections)
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open_connections(self) -> int:
        return self._pool.open

    @property
    def idle_connections(self) -> int:
        return len(self._pool.idle)

    @property
    def leased(self) -> int:
        return self._pool.leased

    @property
    def waiting(self) -> int:
        return self._pool.waiting

    async def request(self, head: bytes, body: bytes, deadline: float = float("inf")) -> Response:
        """Send a request (`head` ends with its empty line) and return when the head of the answer is there.

        `deadline` is on the client's clock. Raises UpstreamError; cancelled, it leaves nothing behind.
        """
        began = self.clock()
        total = min(deadline, began + self.timeouts.total_s)
        if total <= began:
            raise self._late(began, total)
        connection = self._take_idle(began) or await self._lease(began, total)
        while True:
            try:
                incoming = await connection.exchange(head, body, began, total)
                return Response(self, connection, incoming)
            except UpstreamError as error:
                if error.kind != "stale":
                    self.give_back(connection)
                    raise
                sent = error.sent
            except BaseException:
                self.give_back(connection)
                raise
            connection = await self._replace(connection, began, total, sent)

    async def aclose(self) -> None:
        """Close what is idle and keep nothing from now on; answers under way run to their end."""
        self._closed = True
        self._sweep(float("inf"))
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        await asyncio.sleep(0)  # the event loop closes the sockets

    def give_back(self, connection: Connection) -> None:
        """End a lease: keep the connection if it is fit for another request, else close it now. Idempotent."""
        if not connection.leased:
            return
        connection.leased = False
        lifetime_s = connection.retire()
        if lifetime_s is None or lifetime_s <= 0 or self._closed:
            connection.sever()
            self._pool.free()
            return
        connection.expires_at = self.clock() + lifetime_s
        connection.parked = self._pool.put(connection)
        if connection.parked and self._sweep_timer is None:
            self._sweep_later(lifetime_s)

    def _on_gone(self, connection: Connection) -> None:
        """A connection was lost while nobody waited for it: idle, or leased by someone who never came back."""
        if connection.parked:
            connection.parked = False
            self._pool.drop_idle(connection)
        else:
            self.give_back(connection)

    def _take_idle(self, now: float) -> Connection | None:
        while (connection := self._pool.take()) is not None:
            connection.parked = False
            if connection.expires_at > now and connection.usable:
                connection.leased = True
                return connection
            connection.sever()
            self._pool.free()
        return None

    async def _lease(self, began: float, total: float) -> Connection:
        """A connection that was given back, or a new one."""
        if not self._pool.reserve():
            granted = await self._queue(began, total)
            if granted is not None:  # it may have been lost since, which `exchange` finds out
                granted.leased = True
                return granted
        return await self._connect(began, total)

    async def _queue(self, began: float, total: float) -> Connection | None:
        """Wait in line: a connection, or None for a slot."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self._pool.enqueue(waiter)
        timer = loop.call_later(min(self.timeouts.connect_s, total - began), self._refuse, waiter, began, total)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._hand_on(waiter.result())
            raise
        finally:
            self._pool.forget(waiter)
            timer.cancel()

    def _refuse(self, waiter: "asyncio.Future[Connection | None]", began: float, total: float) -> None:
        if waiter.done():
            return
        busy_s = self.timeouts.connect_s
        text = f"{self.name}: all {self._pool.limit} connections were busy for {busy_s:g} s"
        late = total - began < busy_s
        waiter.set_exception(self._late(began, total) if late else UpstreamError("pool_timeout", text, sent=False))

    def _late(self, began: float, total: float) -> UpstreamError:
        text = f"{self.name}: the call's {max(0.0, total - began):.4g} s were over before a connection was had"
        return UpstreamError("total_timeout", text, sent=False)

    def _hand_on(self, granted: Connection | None) -> None:
        if granted is None or not granted.usable:
            self._pool.free()
        else:
            granted.parked = self._pool.put(granted)

    async def _connect(self, began: float, total: float) -> Connection:
        """A new connection in a slot that is ours already; the slot is given back if that fails."""
        connect_s = self.timeouts.connect_s
        left_s = total - self.clock()
        try:
            connection = await self._dialer.dial(self._make, min(connect_s, left_s))
        except UpstreamError as error:
            self._pool.free()
            if error.kind == "connect_timeout" and left_s < connect_s:
                raise self._late(began, total) from error
            raise
        except BaseException:
            self._pool.free()
            raise
        connection.leased = True
        return connection

    async def _replace(self, stale: Connection, began: float, total: float, sent: bool) -> Connection:
        """A new connection in the slot of a stale one, which may have carried the request."""
        stale.leased = False
        stale.retire()
        stale.sever()
        try:
            return await self._connect(began, total)
        except UpstreamError as error:
            error.sent = error.sent or sent
            raise

    def _make(self) -> Connection:
        return self._kind(self.origin, self.name, self.clock, self._on_gone)

    def _sweep_later(self, delay_s: float) -> None:
        self._sweep_timer = asyncio.get_running_loop().call_later(max(delay_s, 0.01), self._on_sweep)

    def _on_sweep(self) -> None:
        self._sweep_timer = None
        self._sweep(self.clock() + TIMER_SLACK_S)

    def _sweep(self, now: float) -> None:
        """Close the idle connections whose time is over, and come back for the others."""
        for connection in [kept for kept in self._pool.idle if kept.expires_at <= now]:
            self._on_gone(connection)
            connection.sever()
        if self._pool.idle and self._sweep_timer is None:
            next_s = min(kept.expires_at for kept in self._pool.idle) - self.clock()
            self._sweep_later(max(next_s, self.origin.idle_lifetime_s / 16))  # not once for every connection
