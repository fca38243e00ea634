"""How a connection to an origin is opened: name, address, TCP, TLS, all within one deadline; not how it is used.

Rule 1. Certificates and host names are always verified; there is no switch.
Rule 2. Every failure is an UpstreamError with `sent=False`.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlsplit

from gateway.errors import UpstreamError

RACE_DELAY_S = 0.25  # RFC 8305, 5: the recommended connection attempt delay
P = TypeVar("P", bound=asyncio.Protocol)
Address = tuple[int, tuple[str, int] | tuple[str, int, int, int]]  # family, sockaddr


def split_url(url: str) -> tuple[bool, str, int]:
    """(TLS?, host, port) of `scheme://host[:port]`; raises ValueError for anything but http and https."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("an origin is http://host[:port] or https://host[:port]")
    tls = parts.scheme == "https"
    return tls, parts.hostname, parts.port or (443 if tls else 80)


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, HTTP/1.1 only, verified against `ca_file` or the system's authorities."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class Dialer:
    """Opens connections to one host and port."""

    def __init__(self, url: str, ca_file: str | None) -> None:
        tls, self.host, self.port = split_url(url)
        self.name = f"{self.host}:{self.port}"
        self._context = tls_context(ca_file) if tls else None

    async def dial(self, make: Callable[[], P], timeout_s: float) -> P:
        """A connected protocol. Raises UpstreamError dns, refused, tls, connect_timeout; closes what it opened."""
        phase = "name lookup"
        try:
            async with asyncio.timeout(timeout_s):
                addresses = await self._resolve()
                phase = "connect"
                sock = await self._race(addresses)
                phase = "TLS handshake" if self._context else "connect"
                return await self._wrap(make, sock)
        except TimeoutError:
            raise self._error("connect_timeout", f"{phase} took longer than {timeout_s:g} s") from None
        except socket.gaierror as error:
            raise self._error("dns", f"the name does not resolve ({error.strerror})") from None
        except ssl.SSLCertVerificationError as error:
            raise self._error("tls", f"the certificate was refused: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise self._error("tls", f"the TLS handshake failed ({error.reason or type(error).__name__})") from None
        except OSError as error:
            if phase == "TLS handshake":
                raise self._error("tls", "the connection broke during the TLS handshake") from None
            raise self._error("refused", f"connect failed ({error.strerror or type(error).__name__})") from None

    def _error(self, kind: str, what: str) -> UpstreamError:
        return UpstreamError(kind, f"{self.name}: {what}", sent=False)  # type: ignore[arg-type]

    async def _resolve(self) -> list[Address]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return [(int(family), sockaddr) for family, _, _, _, sockaddr in found]  # type: ignore[misc]

    async def _race(self, addresses: list[Address]) -> socket.socket:
        error: OSError | None = None
        for address in addresses:
            try:
                return await _connect(address)
            except OSError as failed:
                error = failed
        raise error or OSError("no address")

    async def _wrap(self, make: Callable[[], P], sock: socket.socket) -> P:
        loop = asyncio.get_running_loop()
        try:
            if self._context is None:
                _, protocol = await loop.create_connection(make, sock=sock)
            else:
                _, protocol = await loop.create_connection(
                    make, sock=sock, ssl=self._context, server_hostname=self.host
                )
            return protocol
        except BaseException:
            sock.close()
            raise


async def _connect(address: Address) -> socket.socket:
    family, sockaddr = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, sockaddr)
        return sock
    except BaseException:
        sock.close()
        raise
