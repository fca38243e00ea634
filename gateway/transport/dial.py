"""How a connection to an origin is opened: name, address, TCP, proxy, TLS, all in one deadline; not how it is used.

Rule 1. Certificates and host names are always verified; there is no switch.
Rule 2. Every failure is an UpstreamError with `sent=False`, and leaves no socket open.
Rule 3. A name is looked up off the event loop, by one lookup at a time. The last addresses that were good are used when
        the lookup fails or takes longer than half the time there is.
"""

import asyncio
import errno
import functools
import itertools
import os
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from gateway.errors import FaultKind, UpstreamError
from gateway.transport.proxy import Proxy
from gateway.transport.tunnel import Answer, Tunnel

RACE_DELAY_S = 0.25  # RFC 8305, 5: the recommended connection attempt delay

P = TypeVar("P", bound=asyncio.Protocol)
Q = TypeVar("Q", bound=asyncio.Protocol)
SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
Address = tuple[int, SocketAddress]  # family first
Opened = tuple[asyncio.Transport, P]
Opener = Callable[[], Coroutine[None, None, Opened[P]]]
LookUp = Callable[[str, int], Coroutine[None, None, Sequence[Address]]]


def split_url(url: str) -> tuple[bool, str, int]:
    """(TLS?, host, port) of `scheme://host[:port]`; raises ValueError for anything but http and https."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.port == 0:
        raise ValueError("an origin is http://host[:port] or https://host[:port]")
    tls = parts.scheme == "https"
    return tls, parts.hostname, parts.port if parts.port is not None else 443 if tls else 80


class Trust(NamedTuple):
    """Whose certificates are good: those of `ca_file`, of the system where none is said, of both with `system`."""

    ca_file: str | None = None
    system: bool = False

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, HTTP/1.1 only."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.ca_file is not None and self.system:
            context.load_default_certs()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        return context


async def look_up(host: str, port: int) -> Sequence[Address]:
    """The addresses of a name, in the system's order. Raises socket.gaierror."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(int(family), sockaddr) for family, _, _, _, sockaddr in found]


SYSTEM = Trust()


class Dialer:
    """Opens connections to one host and port, or to the proxy before it. Owns what is known of its addresses.

    TLS goes through a tunnel of the proxy's. Plain HTTP it hands on by itself, if it is asked for the whole URL."""

    def __init__(self, url: str, trust: Trust = SYSTEM, proxy: Proxy | None = None, look_up: LookUp = look_up) -> None:
        secure, host, port = split_url(url)
        self.name = self._way = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.host, self.port = host, port
        self._tunnel: Tunnel | None = None
        self._tls = trust.context() if secure else None
        if proxy is not None:
            self._way = f"{self.name} through the proxy {proxy.name}"
            self.host, self.port = proxy.host, proxy.port
            self._tunnel = Tunnel(proxy, self.name, host, self._tls) if self._tls else None
            self._tls = Trust(trust.ca_file, system=True).context() if proxy.tls else None
        self._look_up = look_up
        self._good: Sequence[Address] = _literal(self.host, self.port)
        self._is_literal = bool(self._good)
        self._lookup: asyncio.Task[Sequence[Address]] | None = None

    async def dial(self, make: Callable[[], P], timeout_s: float) -> P:
        """A connected protocol. Raises UpstreamError dns, refused, tls, proxy, connect_timeout."""
        phase = "the name lookup"
        try:
            async with asyncio.timeout(timeout_s):
                addresses = await self._addresses(timeout_s)
                phase = "connecting with TLS" if self._secure else "connecting"
                return await race([functools.partial(self._open, make, address) for address in interleave(addresses)])
        except TimeoutError:  # also a connect that the kernel gave up
            raise self._error("connect_timeout", f"{phase} took longer than {timeout_s:g} s") from None
        except UnicodeError:
            raise self._error("dns", "the name cannot be looked up") from None
        except OSError as error:
            raise self._error(*_fault(error, self._secure)) from None

    @property
    def _secure(self) -> bool:
        return self._tls is not None or self._tunnel is not None

    def _error(self, kind: FaultKind, what: str) -> UpstreamError:
        return UpstreamError(kind, f"{self._way}: {what}", sent=False)

    async def _addresses(self, timeout_s: float) -> Sequence[Address]:
        if self._is_literal:
            return self._good
        lookup = self._lookup
        if lookup is None:
            lookup = self._lookup = asyncio.get_running_loop().create_task(self._look_up(self.host, self.port))
            lookup.add_done_callback(self._looked_up)
        await asyncio.wait({lookup}, timeout=timeout_s / 2 if self._good else None)  # cancels nothing
        if self._good and (not lookup.done() or lookup.cancelled() or lookup.exception() is not None):
            return self._good
        return lookup.result()

    def _looked_up(self, lookup: "asyncio.Task[Sequence[Address]]") -> None:
        self._lookup = None
        if not lookup.cancelled() and lookup.exception() is None:
            self._good = lookup.result()

    async def _open(self, make: Callable[[], P], address: Address) -> Opened[P]:
        """One connection, closed by the event loop itself if this is cancelled or fails half-way."""
        if self._tunnel is None:
            return await self._connected(make, address)
        transport, answer = await self._connected(Answer, address)
        return await self._tunnel.through(transport, answer, make)

    async def _connected(self, make: Callable[[], Q], address: Address) -> Opened[Q]:
        family, (host, port, *_) = address
        name = self.host if self._tls else None
        return await asyncio.get_running_loop().create_connection(
            make, str(host), int(port), family=family, ssl=self._tls, server_hostname=name
        )


def _fault(error: OSError, tls: bool) -> tuple[FaultKind, str]:
    match error:
        case socket.gaierror():
            return "dns", f"the name does not resolve ({error.strerror})"
        case ssl.SSLCertVerificationError():
            return "tls", f"the certificate was refused ({error.verify_message})"
        case ssl.SSLError():
            return "tls", f"the TLS handshake failed ({error.reason or 'broken'})"
        case ConnectionResetError() | ConnectionAbortedError() | BrokenPipeError() if tls:
            return "tls", "the connection broke during the TLS handshake"
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return "no_files", "this gateway may open no further file"
        case _:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            return "refused", f"cannot connect ({reason.lower()})"


def interleave(addresses: Iterable[Address]) -> Sequence[Address]:
    """The families by turns, each in its own order, the first one first (RFC 8305, 4)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = itertools.zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


async def race(openers: Sequence[Opener[P]]) -> P:
    """The protocol of the first that connects; the next one starts when those before have failed or RACE_DELAY_S is
    over. Raises the last failure. Closes whatever else connects."""
    if len(openers) == 1:
        return (await openers[0]())[1]
    loop = asyncio.get_running_loop()
    running: list[asyncio.Task[Opened[P]]] = []
    winner: Opened[P] | None = None
    try:
        for opener in openers:
            running.append(loop.create_task(opener()))
            last = len(running) == len(openers)
            winner = await _first(running, None if last else RACE_DELAY_S)
            if winner is not None:
                return winner[1]
        raise (running[-1].exception() if running else None) or OSError("no address")
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(lambda done: _close_loser(done, winner))


async def _first(running: Sequence["asyncio.Task[Opened[P]]"], timeout_s: float | None) -> Opened[P] | None:
    """What the first task to succeed opened; None when all have failed or the time is over."""
    pending = set(running)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (timeout_s or 0.0)
    while pending:
        left_s = None if timeout_s is None else max(0.0, deadline - loop.time())
        done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is None:
                return task.result()
        if not done:
            return None
    return None


def _close_loser(done: "asyncio.Task[Opened[P]]", winner: Opened[P] | None) -> None:
    if not done.cancelled() and done.exception() is None and done.result() is not winner:
        done.result()[0].abort()


def _literal(host: str, port: int) -> Sequence[Address]:
    """The address of a host that is one already."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return ()
    return [(int(family), sockaddr) for family, _, _, _, sockaddr in found]
