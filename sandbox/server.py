"""The ports of the box, one per cloud, opened and shut as faults demand; requests are answered, recorded, spoilt."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable

from sandbox.behaviour import Behaviour, Fault
from sandbox.calls import CallLog, CallRecord, shown_body, shown_headers
from sandbox.cloud import Cloud
from sandbox.faults import strike
from sandbox.http1 import Connection, Handler
from sandbox.playback import Playback
from sandbox.site import Site
from sandbox.types import Reply, Request

_BACKLOG = 1024
_FILLERS = 8
_NEVER_SPOILT = frozenset({401, 403, 404, 405})  # a fault is for calls that the cloud would serve


class Port:
    """Owns one listening socket and its connections. The port number stays ours while it is shut."""

    def __init__(self, host: str, number: int, serve: Handler, keep_alive_s: Callable[[], float]) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._holder = socket.socket(family, socket.SOCK_STREAM)
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._holder.bind((host, number))
        except OSError:
            self._holder.close()
            raise
        self.host, self.number = host, int(self._holder.getsockname()[1])
        self._family, self._serve, self._keep_alive_s = family, serve, keep_alive_s
        self._server: asyncio.Server | None = None
        self._fillers: list[socket.socket] = []
        self.connections: set[Connection] = set()
        self._state = "shut"
        self.on_open: Callable[[Connection], None] | None = None
        self.on_close: Callable[[Connection], None] | None = None

    async def become(self, state: str) -> None:
        """open, refuse or blackhole."""
        if state == self._state:
            return
        self._shut()
        self._state = state
        if state == "open":
            self._server = await asyncio.get_running_loop().create_server(
                self._accept, sock=self._bound(), backlog=_BACKLOG
            )
        elif state == "blackhole":
            self._fill(self._bound())

    def _bound(self) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((self.host, self.number))
        return sock

    def _fill(self, sock: socket.socket) -> None:
        """Listens without ever accepting, the queue full with our own connections: further ones hang."""
        sock.listen(0)
        self._fillers.append(sock)
        for _ in range(_FILLERS):
            filler = socket.socket(self._family, socket.SOCK_STREAM)
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect((self.host, self.number))
            self._fillers.append(filler)

    def _accept(self) -> Connection:
        return Connection(next(_numbers), self._serve, self._keep_alive_s, self)

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        if self.on_open is not None:
            self.on_open(connection)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if self.on_close is not None:
            self.on_close(connection)

    def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for sock in self._fillers:
            sock.close()
        self._fillers.clear()
        for connection in list(self.connections):
            connection.close()
        self._state = "shut"

    def release(self) -> None:
        self._shut()
        self._holder.close()


_numbers = itertools.count(1)


class CloudServer:
    """One cloud on its port."""

    def __init__(self, cloud: Cloud, site: Site, log: CallLog) -> None:
        self.cloud, self.site, self._log = cloud, site, log
        self._last: dict[int, CallRecord] = {}
        self.port: Port | None = None

    def bind(self, host: str, number: int) -> None:
        self.port = Port(host, number, self._serve, self._keep_alive_s)
        self.port.on_open, self.port.on_close = self._opened, self._closed

    def origin(self) -> str:
        assert self.port is not None
        host = f"[{self.port.host}]" if ":" in self.port.host else self.port.host
        return f"http://{host}:{self.port.number}"

    async def settle(self) -> None:
        """Opens or shuts the port as the behaviour says."""
        assert self.port is not None
        fault = self.site.behaviour.fault
        await self.port.become(fault.kind if fault is not None and fault.kind in ("refuse", "blackhole") else "open")

    def _keep_alive_s(self) -> float:
        told = self.site.behaviour.keep_alive_s
        return self.cloud.keep_alive_s if told is None else told

    # ------------------------------------------------------------------ one connection
    def _opened(self, connection: Connection) -> None:
        fault = self.site.behaviour.fault
        if fault is not None and fault.at == "accept" and self.site.fault_for("", "POST", fault.path or ""):
            asyncio.get_running_loop().call_soon(connection.reset if fault.kind == "reset_before" else connection.close)

    def _closed(self, connection: Connection) -> None:
        record = self._last.pop(connection.number, None)
        if record is not None:
            record.closed = connection.closed_at
            self._log.changed()

    # ------------------------------------------------------------------ one request
    async def _serve(self, connection: Connection, request: Request) -> None:
        record = self._begin(connection, request)
        working = request.method == "POST"
        self.site.running += working
        try:
            reply = self.cloud.respond(request, self.site)
            _note(record, reply)
            self._log.tell(record, reply.choices)
            await self._play(connection, request, reply, record)
            record.ended = record.ended or ("done" if reply.status < 400 else "refused")
            if record.ended == "done":
                self.site.counters.succeeded(reply.finishes)
        except asyncio.CancelledError:
            record.ended = record.ended or "client_closed"
            raise
        finally:
            record.finished = self.site.now()
            self.site.running -= working
            if record.first_token is not None:
                self.site.counters.served(
                    record.prompt_tokens,
                    record.sent_tokens,
                    record.first_token - record.began,
                    record.finished - record.first_token,
                )
            self._log.changed()

    async def _play(self, connection: Connection, request: Request, reply: Reply, record: CallRecord) -> None:
        behaviour = self.site.behaviour
        play = Playback(connection, reply, behaviour.at(reply.model), record, self.cloud.early_head)
        fault = self._fault(request, reply, behaviour)
        if fault is None:
            await play.play()
        else:
            await strike(play, fault, self.cloud)

    def _fault(self, request: Request, reply: Reply, behaviour: Behaviour) -> Fault | None:
        if reply.status in _NEVER_SPOILT:
            return None
        fault = self.site.fault_for(reply.model, request.method, request.path)
        return None if fault is None or fault.at == "accept" else fault

    def _begin(self, connection: Connection, request: Request) -> CallRecord:
        record = CallRecord(
            n=self._log.next_number(),
            cloud=self.cloud.name,
            method=request.method,
            path=request.path,
            headers=shown_headers(request.headers),
            body=shown_body(request.headers, request.body),
            body_bytes=len(request.body),
            began=self.site.now(),
            connection=connection.number,
            credential=self.cloud.credential(request, self.site),
        )
        if request.method == "POST":
            self._log.add(record)
        self._last[connection.number] = record
        return record


def _note(record: CallRecord, reply: Reply) -> None:
    record.model, record.status = reply.model, reply.status
    record.stream = reply.events is not None
    record.prompt_tokens, record.answer_tokens = reply.prompt_tokens, reply.tokens
