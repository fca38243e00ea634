"""A connection to a forward proxy that hands plain HTTP on: requests name the whole URL and carry its credentials.

Source: RFC 9112, 3.2.2 (absolute-form); RFC 9110, 11.7.2."""

from gateway.errors import UpstreamError
from gateway.transport.connection import Connection
from gateway.transport.http1 import Incoming
from gateway.transport.proxy import Proxy


class HandedOn(Connection):
    """A Connection whose origin has a proxy."""

    __slots__ = ()

    async def exchange(self, head: bytes, body: bytes, began: float, total: float) -> Incoming:
        proxy = self.origin.proxy
        assert proxy is not None
        incoming = await super().exchange(absolute(head, self.origin.url, proxy), body, began, total)
        if incoming.status == 407:
            what = "wants other credentials (407): 'proxy' takes user:password@ before the host"
            raise UpstreamError("proxy", f"{self.origin.url}: the proxy {proxy.name} {what}", sent=False)
        return incoming


def absolute(head: bytes, url: str, proxy: Proxy) -> bytes:
    """A request's head as a proxy wants it; `url` is the origin's, without a path."""
    line, _, rest = head.partition(b"\r\n")
    method, _, target = line.partition(b" ")
    said = proxy.authorization()
    credentials = f"proxy-authorization: {said}\r\n".encode("ascii") if said else b""
    return b"%b %b%b\r\n%b%b" % (method, url.encode("ascii"), target, credentials, rest)
