"""TLS: verified or refused, never anything between."""

import asyncio
import datetime
import ssl

import pytest
import trustme

from gateway.transport.client import Client, Origin, Timeouts
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


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def good(authority: trustme.CA) -> ssl.SSLContext:
    return serving(authority.issue_cert("localhost", "127.0.0.1"))


async def test_requests_and_streams_over_tls(client_of: ClientOf, authority: trustme.CA, ca_file: str) -> None:
    agreed: list[tuple[str | None, str | None]] = []

    async def script(peer: Peer) -> None:
        secure = peer.writer.get_extra_info("ssl_object")
        agreed.append((secure.selected_alpn_protocol(), secure.version()))
        await peer.answer()
        await peer.answer(CHUNKED + b"2\r\nhi\r\n")
        await peer.send(b"0\r\n\r\n")
        await peer.gone()

    context = good(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with Upstream(script, context) as upstream:
        client = client_of(Origin(url=upstream.origin("https"), ca_file=ca_file))
        assert await ask(client) == b"hello"
        assert await chunks(await send(client)) == (b"hi", None)
        assert (upstream.accepted, client.idle_connections) == (1, 1)
        assert agreed == [("http/1.1", "TLSv1.3")]
        await client.aclose()
        await upstream.until_live(0)


async def test_a_large_request_and_answer_over_tls(client_of: ClientOf, authority: trustme.CA, ca_file: str) -> None:
    body = b"x" * 3_000_000

    async def script(peer: Peer) -> None:
        while True:
            assert (await peer.request()).endswith(body)
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + body)

    async with Upstream(script, good(authority)) as upstream:
        client = client_of(Origin(url=upstream.origin("https", "localhost"), ca_file=ca_file))
        for _ in range(2):
            assert await ask(client, body) == body
        got, error = await chunks(await send(client, body))
        assert (len(got), error) == (3_000_000, None)
        assert upstream.accepted == 1


def expired(authority: trustme.CA) -> ssl.SSLContext:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return serving(
        authority.issue_cert("127.0.0.1", not_before=yesterday - datetime.timedelta(days=9), not_after=yesterday)
    )


def other_name(authority: trustme.CA) -> ssl.SSLContext:
    return serving(authority.issue_cert("other.example"))


def unknown_authority(authority: trustme.CA) -> ssl.SSLContext:
    return serving(trustme.CA().issue_cert("127.0.0.1"))


def too_old(authority: trustme.CA) -> ssl.SSLContext:
    context = good(authority)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


REFUSED = {
    "expired": (expired, "certificate has expired"),
    "another name": (other_name, "127.0.0.1"),
    "an unknown authority": (unknown_authority, "unable to get local issuer certificate"),
    "TLS 1.1": (too_old, "TLS handshake"),
}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("case", REFUSED.keys())
async def test_a_certificate_or_version_that_is_not_good_is_refused(
    client_of: ClientOf, authority: trustme.CA, ca_file: str, case: str
) -> None:
    make, reason = REFUSED[case]
    heard = []

    async def script(peer: Peer) -> None:
        heard.append(await peer.reader.read(1))

    async with Upstream(script, make(authority)) as upstream:
        client = client_of(Origin(url=upstream.origin("https"), ca_file=ca_file))
        for _ in range(2):
            error = await failure(send(client, b"a prompt"))
            assert (error.kind, error.sent) == ("tls", False)
            assert reason in error.message
            assert client.open_connections == 0
        assert b"".join(heard) == b""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
async def test_the_server_of_tls_1_1_above_is_refused_for_its_version_only(authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with Upstream(answering, too_old(authority)) as upstream:
        _, writer = await asyncio.open_connection("127.0.0.1", upstream.port, ssl=context)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.1"
        writer.transport.abort()
        await upstream.until_live(0)


async def test_a_self_signed_certificate_is_refused_by_the_authorities_of_the_system(client_of: ClientOf) -> None:
    async with Upstream(answering, good(trustme.CA())) as upstream:
        client = client_of(Origin(url=upstream.origin("https")))
        assert (await failure(send(client))).kind == "tls"


async def test_a_peer_without_tls_is_refused(client_of: ClientOf, ca_file: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(10)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin("https"), ca_file=ca_file))
        error = await failure(send(client))
        assert (error.kind, error.sent) == ("tls", False)


@pytest.mark.parametrize("rst", [False, True], ids=["FIN", "RST"])
async def test_a_peer_that_leaves_during_the_handshake(client_of: ClientOf, ca_file: str, rst: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(10)
        if rst:
            peer.reset()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin("https"), ca_file=ca_file))
        error = await failure(send(client))
        assert (error.kind, error.sent) == ("tls", False)
        assert client.open_connections == 0


async def test_a_handshake_that_stalls_ends_at_the_connect_bound(client_of: ClientOf, ca_file: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin("https"), ca_file=ca_file, timeouts=Timeouts(connect_s=0.15)))
        error = await failure(send(client))
        assert (error.kind, error.sent) == ("connect_timeout", False)
        assert "connecting with TLS took longer than 0.15 s" in error.message
        assert client.open_connections == 0
        await upstream.until_live(0)


async def test_a_call_cancelled_during_tls_leaves_nothing(
    client_of: ClientOf, authority: trustme.CA, ca_file: str
) -> None:
    async with Upstream(answering, good(authority)) as upstream:
        client = client_of(
            Origin(url=upstream.origin("https"), ca_file=ca_file, timeouts=Timeouts(connect_s=PATIENCE_S))
        )
        for turns in range(40):
            task = asyncio.create_task(ask(client))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (client.leased, client.waiting) == (0, 0)
            await client.aclose()
        await upstream.until_live(0)
        assert await ask(client) == b"hello"


def test_a_file_of_authorities_that_is_missing_is_an_error_at_once() -> None:
    with pytest.raises(OSError, match="No such file"):
        Client(Origin(url="https://cloud.example", ca_file="/nowhere/ca.pem"))
