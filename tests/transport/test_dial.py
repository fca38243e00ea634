"""Names, addresses, and the race between addresses."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from gateway.transport.client import Client, Origin
from gateway.transport.dial import RACE_DELAY_S, Address, Dialer, Opener, interleave, race, split_url
from tests.transport.test_faults import blackhole, closed_port
from tests.transport.upstreams import ClientOf, Upstream, answering, ask, failure

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


class Names:
    """A name server under the test's control: an answer or an error each time, when `go` is set."""

    def __init__(self, *answers: Sequence[Address] | OSError) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked += 1
        await self.go.wait()
        answer = self.answers[min(self.asked, len(self.answers)) - 1]
        if isinstance(answer, OSError):
            raise answer
        return answer


def at(port: int) -> Address:
    return V4, ("127.0.0.1", port)


async def dialled(dialer: Dialer, timeout_s: float = 20.0) -> None:
    class Hello(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    await dialer.dial(Hello, timeout_s)


NXDOMAIN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def test_a_name_that_does_not_resolve(client_of: ClientOf) -> None:
    error = await failure(dialled(Dialer("http://cloud.example", look_up=Names(NXDOMAIN))))
    assert (error.kind, error.sent) == ("dns", False)
    assert error.message == "cloud.example:80: the name does not resolve (Name or service not known)"


async def test_a_name_that_cannot_be_a_name(client_of: ClientOf) -> None:
    client = client_of(Origin(url=f"http://{'x' * 64}.example"))
    assert (await failure(ask(client))).kind == "dns"


async def test_a_lookup_that_hangs_ends_at_the_connect_bound() -> None:
    names = Names(NXDOMAIN)
    names.go.clear()
    error = await failure(dialled(Dialer("http://cloud.example", look_up=names), 0.1))
    assert (error.kind, error.message) == (
        "connect_timeout",
        "cloud.example:80: the name lookup took longer than 0.1 s",
    )
    names.go.set()


async def test_many_connections_at_once_share_one_lookup() -> None:
    async with Upstream(answering) as upstream:
        names = Names([at(upstream.port)])
        names.go.clear()
        dialer = Dialer("http://cloud.example", look_up=names)
        waiting = [asyncio.create_task(dialled(dialer)) for _ in range(10)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # the one that asked may go without taking the lookup with it
        await asyncio.sleep(0)
        names.go.set()
        await asyncio.gather(*waiting[1:])
        assert names.asked == 1


async def test_the_last_good_addresses_are_used_when_a_lookup_fails() -> None:
    async with Upstream(answering) as upstream:
        names = Names([at(upstream.port)], NXDOMAIN)
        dialer = Dialer("http://cloud.example", look_up=names)
        for _ in range(3):
            await dialled(dialer)
        assert names.asked == 3


async def test_the_last_good_addresses_are_used_when_a_lookup_hangs() -> None:
    async with Upstream(answering) as upstream:
        names = Names([at(upstream.port)])
        dialer = Dialer("http://cloud.example", look_up=names)
        await dialled(dialer)
        names.go.clear()
        await dialled(dialer, 0.5)
        names.go.set()


async def test_a_new_address_replaces_the_old_one() -> None:
    async with Upstream(answering) as old, Upstream(answering) as new:
        dialer = Dialer("http://cloud.example", look_up=Names([at(old.port)], [at(new.port)]))
        await dialled(dialer)
        await dialled(dialer)
        await new.until_live(0)
        assert (old.accepted, new.accepted) == (1, 1)


async def test_a_refused_address_gives_way_to_the_next_at_once() -> None:
    async with Upstream(answering) as upstream:
        names = Names([at(closed_port()), at(closed_port()), at(upstream.port)])
        await dialled(Dialer("http://cloud.example", look_up=names))
        assert upstream.accepted == 1


async def test_an_address_that_hangs_gives_way_to_the_next() -> None:
    async with blackhole() as dead, Upstream(answering) as upstream:
        names = Names([at(dead), at(upstream.port)])
        await dialled(Dialer("http://cloud.example", look_up=names))
        assert upstream.accepted == 1


async def test_the_last_refusal_is_the_error_when_no_address_answers() -> None:
    names = Names([at(closed_port()), at(closed_port())])
    assert (await failure(dialled(Dialer("http://cloud.example", look_up=names)))).kind == "refused"


class Line(asyncio.Transport):
    """A connection that remembers whether it was closed."""

    closed = False

    def abort(self) -> None:
        self.closed = True


@pytest.mark.parametrize("cancelled", [False, True])
async def test_whatever_connects_beside_the_winner_is_closed(cancelled: bool) -> None:
    go = asyncio.Event()
    lines = [Line(), Line()]

    def opener(line: Line) -> Opener[asyncio.Protocol]:
        async def opened() -> tuple[asyncio.Transport, asyncio.Protocol]:
            await go.wait()
            return line, asyncio.Protocol()

        return opened

    racing = asyncio.create_task(race([opener(line) for line in lines]))
    await asyncio.sleep(RACE_DELAY_S + 0.05)  # by now both are under way
    go.set()
    await asyncio.sleep(0)  # both have connected in this turn, and nobody has looked
    if cancelled:
        racing.cancel()
    await asyncio.gather(racing, return_exceptions=True)
    await asyncio.sleep(0)
    assert sorted(line.closed for line in lines) == ([True, True] if cancelled else [False, True])


async def test_no_address_at_all_is_refused() -> None:
    assert (await failure(dialled(Dialer("http://cloud.example", look_up=Names([]))))).kind == "refused"


async def test_localhost_is_reached_whichever_family_the_server_has(client_of: ClientOf) -> None:
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin(host="localhost")))
        assert await ask(client) == b"hello"


def test_families_take_turns_and_the_first_stays_first() -> None:
    six = [(V6, (f"::{number}", 80, 0, 0)) for number in range(3)]
    four: list[Address] = [at(1), at(2)]
    assert interleave([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleave([*four, *six]) == [four[0], six[0], four[1], six[1], six[2]]
    assert interleave([]) == []


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://cloud.example", (False, "cloud.example", 80)),
        ("https://cloud.example", (True, "cloud.example", 443)),
        ("http://cloud.example:8000/v1", (False, "cloud.example", 8000)),
        ("https://[::1]:8443", (True, "::1", 8443)),
    ],
)
def test_an_origin_is_taken_apart(url: str, parts: tuple[bool, str, int]) -> None:
    assert split_url(url) == parts


@pytest.mark.parametrize(
    "url", ["cloud.example", "ftp://x", "https://", "http://user:pw@x", "http://x:99999", "http://x:0", ""]
)
def test_what_is_no_origin_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Client(Origin(url=url))


def test_an_address_of_six_is_named_in_brackets() -> None:
    assert Client(Origin(url="http://[::1]:8000")).name == "[::1]:8000"
