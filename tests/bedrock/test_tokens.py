"""A credential that expires: rows F1 to F3 of the failure catalogue, on a clock that is turned by hand."""

import asyncio

import pytest

from gateway.errors import UpstreamError
from gateway.outcome import judge
from providers.credentials.tokens import FORCED_EVERY_S, Lease, Refresher, back_off_s
from tests.harness import Clock

LIFE_S = 100.0


class Source:
    """Gives t1, t2, …; can be shut, made to fail, or made to wait until it is let go."""

    def __init__(self, life_s: float | None = LIFE_S) -> None:
        self.life_s = life_s
        self.asked = self.given = 0
        self.down: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> Lease[str]:
        self.asked += 1
        await self.gate.wait()
        if self.down is not None:
            raise self.down
        self.given += 1
        return Lease(f"t{self.given}", self.life_s)


def refused(message: str = "the source said no") -> UpstreamError:
    return UpstreamError("status", message, status=401)


async def settled() -> None:
    """Lets what is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def refresher(source: Source, clock: Clock) -> Refresher[str]:
    return Refresher(source.fetch, clock)


async def test_a_thousand_waiters_are_one_fetch(source: Source, refresher: Refresher[str]) -> None:
    source.gate.clear()
    waiting = [asyncio.create_task(refresher.get()) for _ in range(1000)]
    await settled()
    source.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"t1"}
    assert source.asked == 1


async def test_it_is_fetched_anew_at_80_percent_of_its_life_while_calls_go_on(
    source: Source, refresher: Refresher[str], clock: Clock
) -> None:
    await refresher.get()
    clock.advance(79.9)
    assert await refresher.get() == "t1"
    assert source.asked == 1
    clock.advance(0.2)
    source.gate.clear()
    assert {await refresher.get() for _ in range(1000)} == {"t1"}  # nobody waits
    await settled()
    assert source.asked == 2
    source.gate.set()
    await settled()
    assert await refresher.get() == "t2"


async def test_the_old_one_is_used_to_its_end_while_the_source_is_down(
    source: Source, refresher: Refresher[str], clock: Clock
) -> None:
    await refresher.get()
    source.down = refused()
    clock.advance(80)
    while clock() < 1000 + LIFE_S:
        assert await refresher.get() == "t1"
        await settled()
        clock.advance(0.25)
    with pytest.raises(UpstreamError, match="the source said no"):
        await refresher.get()
    assert 4 <= source.asked <= 1 + 20 / 0.5  # not at every call of these 20 s
    source.down = None
    clock.advance(40)
    assert await refresher.get() == "t2"


async def test_a_source_that_is_down_is_left_alone_for_a_growing_while(
    source: Source, refresher: Refresher[str], clock: Clock
) -> None:
    source.down = refused()
    for _ in range(1000):
        with pytest.raises(UpstreamError):
            await refresher.get()
    assert source.asked == 1
    clock.advance(1.5)  # the first back-off is at most 0.5 + 1 s
    with pytest.raises(UpstreamError) as caught:
        await refresher.get()
    assert source.asked == 2
    assert judge(caught.value).fault == "credential"
    waits = [back_off_s(n) for n in (1, 2, 3, 6, 50, 5000)]
    assert all(low <= wait <= low + 1 for wait, low in zip(waits, (0.5, 1, 2, 16, 30, 30), strict=True))
    assert len({back_off_s(50) for _ in range(20)}) > 1  # jittered at the cap, too


async def test_each_who_waits_hears_of_the_failure_and_none_for_the_others(
    source: Source, refresher: Refresher[str]
) -> None:
    source.gate.clear()
    waiting = [asyncio.create_task(refresher.get()) for _ in range(3)]
    await settled()
    waiting[0].cancel()  # a client that left takes nothing from the others
    source.gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == ["t1", "t1"]
    assert source.asked == 1


async def test_a_refused_one_is_fetched_anew_once_for_all_that_were_refused_with_it(
    source: Source, refresher: Refresher[str], clock: Clock
) -> None:
    old = await refresher.get()
    found = await asyncio.gather(*(refresher.renew(old) for _ in range(1000)))
    assert set(found) == {"t2"}
    assert source.asked == 2
    assert await refresher.renew(old) == "t2"  # a late one: somebody has done so
    assert source.asked == 2
    assert await refresher.renew("t2") is None  # refused again at once: it is not the credential
    clock.advance(FORCED_EVERY_S)
    assert await refresher.renew("t2") == "t3"


async def test_a_forced_refresh_that_fails_or_brings_the_same_is_none(
    source: Source, refresher: Refresher[str], clock: Clock
) -> None:
    await refresher.get()
    source.down = refused()
    assert await refresher.renew("t1") is None
    assert await refresher.get() == "t1"  # it may still serve
    source.down, source.given = None, 0
    clock.advance(60)
    assert await refresher.renew("t1") is None


@pytest.mark.parametrize("error", [RuntimeError("secret-in-a-text"), OSError("x"), ValueError()])
async def test_whatever_a_source_raises_becomes_an_error_without_its_text(
    source: Source, refresher: Refresher[str], error: Exception
) -> None:
    source.down = error
    with pytest.raises(UpstreamError) as caught:
        await refresher.get()
    assert type(error).__name__ in caught.value.message
    assert "secret-in-a-text" not in caught.value.message


async def test_a_source_that_gives_what_has_expired_has_failed(clock: Clock) -> None:
    with pytest.raises(UpstreamError, match="expired already"):
        await Refresher(Source(0.0).fetch, clock).get()


async def test_a_source_that_hangs_is_given_up(source: Source, clock: Clock) -> None:
    source.gate.clear()
    refresher = Refresher(source.fetch, clock, fetch_s=0.01)
    with pytest.raises(UpstreamError, match="gave none in"):
        await refresher.get()


async def test_what_does_not_expire_is_asked_for_once(clock: Clock) -> None:
    source = Source(None)
    refresher = Refresher(source.fetch, clock)
    await refresher.get()
    clock.advance(1e9)
    assert await refresher.get() == "t1"


async def test_closing_gives_up_a_fetch_under_way(source: Source, refresher: Refresher[str]) -> None:
    source.gate.clear()
    waiting = asyncio.create_task(refresher.get())
    await settled()
    await refresher.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
