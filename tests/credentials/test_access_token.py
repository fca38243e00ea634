"""How an access token is kept: rows F1 to F4 of the failure catalogue, with a clock turned by hand."""

import asyncio
import itertools
import os

import pytest

from gateway.errors import UpstreamError
from providers.credentials.access_token import AccessToken, file_stamp, oauth_code, unavailable
from providers.credentials.tokens import Lease
from tests.harness import Clock, eventually

FOREVER = float("inf")


class Scripted:
    """A source that gives t1, t2 … for `life_s` each; while `gate` is closed it waits, while `broken` it fails."""

    def __init__(self, life_s: float | None = 100.0) -> None:
        self.life_s, self.broken, self.version = life_s, False, 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fetched = 0
        self.closed = False
        self._numbers = itertools.count(1)

    async def fetch(self) -> Lease[str]:
        self.fetched += 1
        await self.gate.wait()
        if self.broken:
            raise unavailable("its source is down")
        return Lease(f"t{next(self._numbers)}", self.life_s)

    def stamp(self) -> object:
        return self.version

    async def aclose(self) -> None:
        self.closed = True


async def test_a_thousand_who_wait_share_one_fetch() -> None:
    source, clock = Scripted(), Clock()
    token = AccessToken(source, clock)
    source.gate.clear()
    waiting = [asyncio.create_task(token.get(FOREVER)) for _ in range(1000)]
    await eventually(lambda: source.fetched == 1, "nothing was fetched")
    source.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"t1"}
    assert source.fetched == 1


async def test_a_token_is_replaced_at_four_fifths_of_its_life_behind_those_who_use_it() -> None:
    source, clock = Scripted(), Clock()
    token = AccessToken(source, clock)
    await token.get(FOREVER)
    clock.advance(79)
    assert [await token.get(FOREVER) for _ in range(100)] == ["t1"] * 100
    assert source.fetched == 1
    clock.advance(2)
    source.gate.clear()
    assert [await token.get(FOREVER) for _ in range(1000)] == ["t1"] * 1000
    source.gate.set()
    await eventually(lambda: source.fetched == 2, "it was not fetched anew")
    await asyncio.sleep(0)
    assert await token.get(FOREVER) == "t2"
    assert source.fetched == 2


def test_a_living_token_is_had_without_a_turn_of_the_event_loop() -> None:
    async def main() -> None:
        token = AccessToken(Scripted(), Clock())
        await token.get(FOREVER)
        step = token.get(FOREVER)
        with pytest.raises(StopIteration) as ended:
            step.send(None)
        assert ended.value.value == "t1"

    asyncio.run(main())


async def test_a_source_that_is_down_leaves_the_old_token_to_its_end_and_is_asked_ever_less() -> None:
    source, clock = Scripted(), Clock()
    token = AccessToken(source, clock)
    await token.get(FOREVER)
    source.broken = True
    clock.advance(80)
    for _ in range(190):  # 19 s in steps of 0.1
        assert await token.get(FOREVER) == "t1"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.advance(0.1)
    assert 3 <= source.fetched - 1 <= 6, "0.5, 1, 2, 4, 8 s apart, each up to a second more"
    clock.advance(60)
    with pytest.raises(UpstreamError, match="its source is down") as refused:
        await token.get(FOREVER)
    assert refused.value.status == 401
    asked = source.fetched
    with pytest.raises(UpstreamError):
        await token.get(FOREVER)
    assert source.fetched == asked, "a source that just failed was asked again at once"
    source.broken = False
    clock.advance(60)
    assert await token.get(FOREVER) == "t2"


async def test_a_refused_token_is_fetched_anew_once_however_many_were_refused() -> None:
    source, clock = Scripted(), Clock()
    token = AccessToken(source, clock)
    refused = await token.get(FOREVER)
    renewed = await asyncio.gather(*(token.renew(refused, FOREVER) for _ in range(100)))
    assert set(renewed) == {"t2"}
    assert source.fetched == 2
    assert await token.renew("t2", FOREVER) is None, "at once again: the cloud means it"
    assert source.fetched == 2
    assert token.secrets() == ["t2"]


async def test_what_changed_on_disk_is_used_within_ten_seconds() -> None:
    source, clock = Scripted(life_s=3600), Clock()
    token = AccessToken(source, clock)
    assert await token.get(FOREVER) == "t1"
    source.version = 1
    seen = []
    for _ in range(10):
        clock.advance(1)
        seen.append(await token.get(FOREVER))
        for _ in range(4):
            await asyncio.sleep(0)
    assert seen[0] == "t1"
    assert seen[-1] == "t2"
    assert source.fetched == 2


async def test_a_changed_file_that_gives_no_token_leaves_the_old_one_and_is_tried_again() -> None:
    source, clock = Scripted(life_s=3600), Clock()
    token = AccessToken(source, clock)
    await token.get(FOREVER)
    source.version, source.broken = 1, True
    for _ in range(20):
        clock.advance(1)
        assert await token.get(FOREVER) == "t1"
        await asyncio.sleep(0.001)
    source.broken = False
    for _ in range(40):
        clock.advance(1)
        await token.get(FOREVER)
        await asyncio.sleep(0.001)
    assert await token.get(FOREVER) == "t2"


async def test_a_file_put_right_is_not_kept_waiting_by_the_failures_before() -> None:
    source, clock = Scripted(), Clock()
    token = AccessToken(source, clock)
    source.broken = True
    for _ in range(8):
        with pytest.raises(UpstreamError):
            await token.get(FOREVER)
        clock.advance(32)
    with pytest.raises(UpstreamError):
        await token.get(FOREVER)
    source.broken, source.version = False, 1
    clock.advance(2)
    assert await token.get(FOREVER) == "t1"


async def test_nobody_waits_for_a_token_beyond_his_deadline() -> None:
    source = Scripted()
    token = AccessToken(source)
    source.gate.clear()
    with pytest.raises(UpstreamError, match="time was over") as late:
        await token.get(token._clock() + 0.02)
    assert (late.value.kind, late.value.sent) == ("total_timeout", False)
    source.gate.set()
    assert await token.get(FOREVER) == "t1"
    assert source.fetched == 1


async def test_the_first_token_is_fetched_at_the_start_and_given_up_at_the_end() -> None:
    source = Scripted()
    token = AccessToken(source, Clock())
    source.gate.clear()
    token.start()
    await eventually(lambda: source.fetched == 1, "nothing was fetched at the start")
    await token.aclose()
    assert source.closed
    assert len(asyncio.all_tasks()) == 1


def test_a_file_that_is_written_replaced_or_removed_has_another_stamp(tmp_path) -> None:
    file = tmp_path / "key"
    stamps = [file_stamp([str(file), None])]
    file.write_text("a")
    stamps.append(file_stamp([str(file)]))
    file.write_text("ab")
    stamps.append(file_stamp([str(file)]))
    other = tmp_path / "other"
    other.write_text("cd")
    os.replace(other, file)
    stamps.append(file_stamp([str(file)]))
    assert len(set(stamps)) == 4
    assert file_stamp([str(file)]) == stamps[-1]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"error": "invalid_client"}, " invalid_client"),
        ({"error": "secret-value 123"}, ""),
        ({"error": {"code": 1}}, ""),
        ({"error": "x" * 41}, ""),
        ({}, ""),
        ("invalid_client", ""),
    ],
)
def test_only_words_of_oauth_are_shown(found: object, said: str) -> None:
    assert oauth_code(found) == said
