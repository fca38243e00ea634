"""Calls through a forward proxy, real ones on both sides: tunnels, plain HTTP, refusals, silence and nonsense."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from gateway.secret import Secret
from gateway.transport.client import Origin, Timeouts
from gateway.transport.proxy import Proxy
from tests.forward_proxy import forward_proxy
from tests.transport.test_faults import closed_port
from tests.transport.upstreams import (
    CHUNKED,
    PATIENCE_S,
    ClientOf,
    Peer,
    Upstream,
    answering,
    ask,
    chunks,
    failure,
    send,
)

PATIENT = Timeouts(connect_s=PATIENCE_S)


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def to(upstream: Upstream, proxy: str, ca_file: str | None = None, timeouts: Timeouts = PATIENT) -> Origin:
    url = upstream.origin("https" if ca_file else "http", "localhost")
    return Origin(url=url, ca_file=ca_file, proxy=Proxy(Secret(proxy)), timeouts=timeouts)


@pytest.mark.parametrize("secure_proxy", [False, True], ids=["http proxy", "https proxy"])
async def test_calls_and_streams_go_through_one_kept_tunnel(
    client_of: ClientOf, tls: ssl.SSLContext, ca_file: str, secure_proxy: bool
) -> None:
    body = b"x" * 1_000_000

    async def script(peer: Peer) -> None:
        await peer.answer()
        await peer.answer(CHUNKED + b"2\r\nhi\r\n")
        await peer.send(b"0\r\n\r\n")
        assert (await peer.request()).endswith(body)
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + body)
        await peer.gone()

    async with forward_proxy("me:pa ss", tls if secure_proxy else None) as proxy, Upstream(script, tls) as upstream:
        client = client_of(to(upstream, proxy.url("me:pa%20ss@"), ca_file))
        assert await ask(client) == b"hello"
        assert await chunks(await send(client)) == (b"hi", None)
        assert await ask(client, body) == body
        assert proxy.asked == [f"CONNECT localhost:{upstream.port} HTTP/1.1"]
        assert upstream.accepted == 1
        await client.aclose()
        await upstream.until_live(0)


@pytest.mark.parametrize("secure_proxy", [False, True], ids=["http proxy", "https proxy"])
async def test_plain_http_names_the_whole_url_and_no_credentials_go_further(
    client_of: ClientOf, tls: ssl.SSLContext, ca_file: str, secure_proxy: bool
) -> None:
    heard = []

    async def script(peer: Peer) -> None:
        heard.append(await peer.answer())

    async with forward_proxy("me:secret", tls if secure_proxy else None) as proxy, Upstream(script) as upstream:
        origin = Origin(
            url=upstream.origin(),
            ca_file=ca_file,
            proxy=Proxy(Secret(proxy.url("me:secret@"))),
            timeouts=PATIENT,
        )
        client = client_of(origin)
        assert await ask(client, b"body") == b"hello"
        assert proxy.asked == [f"POST http://127.0.0.1:{upstream.port}/ HTTP/1.1"]
        assert heard[0].endswith(b"\r\n\r\nbody")
        assert b"authorization" not in heard[0]


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("userinfo", ["", "me:wrong-secret@"])
async def test_a_407_names_the_proxy_and_the_remedy_and_no_password(
    client_of: ClientOf, tls: ssl.SSLContext, ca_file: str, secure: bool, userinfo: str
) -> None:
    async with forward_proxy("me:secret") as proxy, Upstream(answering, tls if secure else None) as upstream:
        client = client_of(to(upstream, proxy.url(userinfo), ca_file if secure else None))
        error = await failure(ask(client, b"a prompt"))
        assert error.kind == "proxy"
        assert not error.sent  # the cloud saw nothing of it
        assert f"the proxy localhost:{proxy.port}" in error.message
        assert "407" in error.message
        assert "user:password@" in error.message
        assert "wrong-secret" not in error.message
        assert upstream.accepted == 0


async def test_a_server_that_the_proxy_cannot_reach(client_of: ClientOf, tls: ssl.SSLContext, ca_file: str) -> None:
    async with forward_proxy() as proxy, Upstream(answering, tls) as upstream:
        pass
    async with forward_proxy() as proxy:
        client = client_of(to(upstream, proxy.url(), ca_file))
        error = await failure(ask(client))
        assert (error.kind, error.sent) == ("proxy", False)
        through = f"localhost:{upstream.port}: the proxy localhost:{proxy.port}"
        assert error.message == f"{through} answered CONNECT with 502 (it cannot reach it)"


NONSENSE = {
    b"SSH-2.0-OpenSSH_9.7\r\n": "something that is not HTTP/1.1",
    b"HTTP/2 200\r\n\r\n": "something that is not HTTP/1.1",
    b"HTTP/1.1 2000 OK\r\n\r\n": "something that is not HTTP/1.1",
    b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000: "something that is not HTTP/1.1",
    b"HTTP/1.1 200 OK\r\n\r\nand more": "sent more than its answer",
    b"HTTP/1.1 101 Switching\r\n\r\n": "answered CONNECT with 101",
    b"HTTP/1.1 301 Moved\r\nlocation: http://login\r\n\r\n<html>": "answered CONNECT with 301",
    b"HTTP/1.1 200": "closed the connection before it answered",
    b"": "closed the connection before it answered",
}


@pytest.mark.parametrize("answer", NONSENSE.keys())
async def test_nonsense_instead_of_a_tunnel(client_of: ClientOf, ca_file: str, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)

    async with Upstream(script) as proxy:
        client = client_of(Origin(url="https://cloud.example", proxy=Proxy(Secret(proxy.origin())), timeouts=PATIENT))
        error = await failure(ask(client, b"a prompt"))
        assert (error.kind, error.sent) == ("proxy", False)
        assert NONSENSE[answer] in error.message
        assert client.open_connections == 0
        await proxy.until_live(0)


@pytest.mark.parametrize("when", ["before its answer", "in its answer", "in the handshake behind it"])
async def test_a_proxy_that_stalls_ends_at_the_connect_bound(client_of: ClientOf, ca_file: str, when: str) -> None:
    said = {"before its answer": b"", "in its answer": b"HTTP/1.1 200 OK\r\nx: "}.get(when, b"HTTP/1.1 200 OK\r\n\r\n")

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(said)
        await peer.gone()

    async with Upstream(script) as proxy:
        origin = Origin(
            url="https://cloud.example", proxy=Proxy(Secret(proxy.origin())), timeouts=Timeouts(connect_s=0.15)
        )
        client = client_of(origin)
        error = await failure(ask(client))
        assert (error.kind, error.sent) == ("connect_timeout", False)
        through = f"cloud.example:443 through the proxy 127.0.0.1:{proxy.port}"
        assert error.message == f"{through}: connecting with TLS took longer than 0.15 s"
        assert client.open_connections == 0
        await proxy.until_live(0)


async def test_a_proxy_that_is_not_there_is_named(client_of: ClientOf) -> None:
    port = closed_port()
    for scheme in ("http", "https"):
        origin = Origin(url=f"{scheme}://cloud.example", proxy=Proxy(Secret(f"http://me:pw@127.0.0.1:{port}")))
        error = await failure(ask(client_of(origin)))
        assert (error.kind, error.sent) == ("refused", False)
        assert f"through the proxy 127.0.0.1:{port}: cannot connect (connection refused)" in error.message


async def test_the_certificate_behind_a_tunnel_is_verified(
    client_of: ClientOf, tls: ssl.SSLContext, ca_file: str
) -> None:
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(other)
    async with forward_proxy() as proxy, Upstream(answering, other) as upstream:
        error = await failure(ask(client_of(to(upstream, proxy.url(), ca_file)), b"a prompt"))
        assert (error.kind, error.sent) == ("tls", False)
        assert "the certificate was refused" in error.message
        assert len(proxy.asked) == 1


async def test_the_certificate_of_a_proxy_is_verified(client_of: ClientOf, tls: ssl.SSLContext, ca_file: str) -> None:
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(other)
    async with forward_proxy(tls=other) as proxy, Upstream(answering, tls) as upstream:
        error = await failure(ask(client_of(to(upstream, proxy.url("me:pw@"), ca_file))))
        assert error.kind == "tls"
        assert proxy.asked == []


async def test_a_call_cancelled_anywhere_on_its_way_through_leaves_nothing(
    client_of: ClientOf, tls: ssl.SSLContext, ca_file: str
) -> None:
    async with forward_proxy() as proxy, Upstream(answering, tls) as upstream:
        client = client_of(to(upstream, proxy.url(), ca_file))
        for turns in range(0, 60, 3):
            task = asyncio.create_task(ask(client))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (client.leased, client.waiting) == (0, 0)
            await client.aclose()
        await upstream.until_live(0)
        assert await ask(client) == b"hello"


async def test_a_password_in_a_file_is_read_again(
    client_of: ClientOf, tls: ssl.SSLContext, ca_file: str, tmp_path: Path
) -> None:
    now = 0.0
    file = tmp_path / "proxy"
    async with forward_proxy("me:new") as proxy, Upstream(answering, tls) as upstream:
        file.write_text(proxy.url("me:old@"))
        found = Proxy(Secret(f"file:{file}", lambda: now))
        client = client_of(
            Origin(url=upstream.origin("https", "localhost"), ca_file=ca_file, proxy=found, timeouts=PATIENT)
        )
        assert (await failure(ask(client))).kind == "proxy"
        file.write_text(proxy.url("me:new@") + "\n")
        now = 2.0
        assert await ask(client) == b"hello"
