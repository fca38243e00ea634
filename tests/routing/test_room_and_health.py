"""breaker, headroom, least_busy, tier, weighted, sticky, context_window, capability, budget over real sockets."""

import asyncio
from collections import Counter

from tests.harness import Clock, eventually
from tests.routing.clouds import Bench, Cloud, bench


async def test_a_circuit_opens_after_five_failures_and_closes_by_one_real_call() -> None:
    clock = Clock()
    found = {"bad": Cloud(clock), "good": Cloud(clock)}
    found["bad"].status = 500
    async with bench(found, ["breaker"], clock) as bed:
        assert await bed.calls(20) == {"good": 20}
        assert found["bad"].attempts == 5
        clock.advance(6.0)
        assert await bed.calls(5) == {"good": 5}
        assert found["bad"].attempts == 6, "half-open lets one call through"
        found["bad"].status = 200
        clock.advance(30.0)
        assert await bed.calls(5) == {"bad": 5}


async def test_retry_after_is_an_absolute_pause() -> None:
    clock = Clock()
    found = {"limited": Cloud(clock, ttft_s=0.0), "other": Cloud(clock, ttft_s=0.0)}
    found["limited"].status, found["limited"].headers = 429, {"retry-after": "3"}
    async with bench(found, ["breaker"], clock) as bed:
        assert await bed.calls(1) == {"other": 1}
        found["limited"].status = 200
        clock.advance(2.9)
        assert await bed.calls(3) == {"other": 3}
        assert found["limited"].attempts == 1
        clock.advance(0.2)
        assert await bed.calls(3) == {"limited": 3}


async def test_a_single_deployment_is_never_refused_for_its_past() -> None:
    clock = Clock()
    found = {"only": Cloud(clock)}
    async with bench(found, ["breaker", "headroom"], clock) as bed:
        found["only"].status = 500
        assert await bed.calls(10) == {"502": 10}
        assert found["only"].attempts == 10
        found["only"].status, found["only"].headers = 429, {"retry-after": "60"}
        status, headers = await bed.call()
        assert (status, headers["retry-after"]) == (429, "60")
        found["only"].status = 200
        assert await bed.calls(10) == {"only": 10}


def groq_headers(left: int, of: int = 100, reset: str = "30s") -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": str(of),
        "x-ratelimit-remaining-requests": str(left),
        "x-ratelimit-reset-requests": reset,
        "x-ratelimit-limit-tokens": "100000",
        "x-ratelimit-remaining-tokens": "100000",
        "x-ratelimit-reset-tokens": "1s",
    }


async def test_headroom_drains_before_the_429_and_comes_back_gradually() -> None:
    clock = Clock()
    found = {"groq": Cloud(clock, ttft_s=0.0), "other": Cloud(clock, ttft_s=0.0)}
    async with bench(found, [{"headroom": {"keep": 0.05}}], clock) as bed:
        found["groq"].headers = groq_headers(80)
        assert await bed.calls(20) == {"groq": 20}
        found["groq"].headers = groq_headers(12)
        await bed.calls(1)
        some = await bed.calls(200)
        assert 40 < some["groq"] < 160, some
        found["groq"].headers = groq_headers(3)
        await bed.calls(10)
        assert await bed.calls(50) == {"other": 50}
        clock.advance(33.0)
        returning = await bed.calls(100)
        assert 0 < returning["groq"] < 100, returning
        found["groq"].headers = groq_headers(100)
        clock.advance(60.0)
        await bed.calls(5)
        assert await bed.calls(20) == {"groq": 20}


async def test_headroom_leaves_a_vllm_whose_queue_or_cache_is_full() -> None:
    clock = Clock()
    own, other = Cloud(clock), Cloud(clock)
    own.headers = {
        "endpoint-load-metrics": 'JSON {"named_metrics":{"num_requests_waiting":0.0,"kv_cache_usage_perc":0.2}}'
    }
    accounts = {"own": {"type": "vllm", "metrics_every_s": 0}}
    async with bench({"own": own, "other": other}, ["headroom"], clock, None, accounts) as bed:
        assert await bed.calls(5) == {"own": 5}
        own.headers = {
            "endpoint-load-metrics": 'JSON {"named_metrics":{"num_requests_waiting":12.0,"kv_cache_usage_perc":0.99}}'
        }
        assert await bed.calls(5) == {"own": 1, "other": 4}


async def test_vllm_metrics_are_read_in_the_background() -> None:
    """No call is needed to learn that the queue is long."""
    clock = Clock()
    asked = asyncio.Event()

    class Full(Cloud):
        async def script(self, connection: object) -> None:
            page = b'vllm:num_requests_waiting{engine="0"} 50.0\nvllm:kv_cache_usage_perc{engine="0"} 0.5\n'
            while request := await connection.request():  # type: ignore[attr-defined]
                assert request.startswith(b"GET /metrics ")
                head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(page)
                await connection.send(head + page)  # type: ignore[attr-defined]
                asked.set()

    own, other = Full(clock), Cloud(clock)
    accounts = {"own": {"type": "vllm", "metrics_every_s": 0.05}}
    async with bench({"own": own, "other": other}, ["headroom"], clock, None, accounts) as bed:
        await asyncio.wait_for(asked.wait(), 5)
        facts = bed.served.gateway.fleet.routes["llama"].lanes["own"].facts
        await eventually(lambda: facts.queue == 50, "the queue was not learned")
        assert await bed.calls(5) == {"other": 5}


async def test_least_busy_evens_out_calls_in_flight() -> None:
    """Twelve streams that stay open spread over three clouds."""
    clock = Clock()
    found = {name: Cloud(clock) for name in "abc"}
    async with bench(found, ["least_busy"], clock) as bed:
        beds = [await another(bed) for _ in range(12)]
        lanes = bed.served.gateway.fleet.routes["llama"].lanes
        for one in beds:
            await one.begin_stream()
        busy = sorted(lane.facts.in_flight for lane in lanes.values())
        for one in beds:
            one.leave()
    assert sum(busy) == 12
    assert busy[0] >= 2, busy


class Held:
    """A client whose stream has begun and does not end: its clouds wait for `heard`."""

    def __init__(self, bed: Bench) -> None:
        self.bed = bed

    async def begin_stream(self) -> None:
        self.bed.heard.clear()
        reader, self.writer = await asyncio.open_connection("127.0.0.1", self.bed.served.port)
        body = b'{"model":"llama","stream":true,"messages":[{"role":"user","content":"hi"}]}'
        self.writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        await reader.readuntil(b"\r\n\r\n")

    def leave(self) -> None:
        self.writer.close()


async def another(bed: Bench) -> Held:
    return Held(bed)


async def test_lower_tiers_serve_until_they_are_out() -> None:
    clock = Clock()
    found = {"cloud": Cloud(clock), "own": Cloud(clock)}
    async with bench(found, ["breaker", "tier"], clock, {"cloud": {"tier": 2}, "own": {"tier": 1}}) as bed:
        assert await bed.calls(10) == {"own": 10}
        found["own"].status = 503
        assert await bed.calls(10) == {"cloud": 10}


async def test_weighted_shares_are_within_two_per_cent_and_reproducible() -> None:
    clock = Clock()
    found = {"a": Cloud(clock), "b": Cloud(clock), "c": Cloud(clock)}
    weights = {"a": {"weight": 7}, "b": {"weight": 2}, "c": {"weight": 1}}
    async with bench(found, ["weighted"], clock, weights) as bed:
        where: dict[str, str] = {}
        for number in range(5000):
            _, headers = await bed.call(headers={"x-request-id": f"call-{number}"})
            where[f"call-{number}"] = headers["x-arriero-deployment"]
        shares = {name: count / 5000 for name, count in Counter(where.values()).items()}
        for name, share in (("a", 0.7), ("b", 0.2), ("c", 0.1)):
            assert abs(shares[name] - share) < 0.02, shares
        for number in range(0, 5000, 250):
            _, headers = await bed.call(headers={"x-request-id": f"call-{number}"})
            assert headers["x-arriero-deployment"] == where[f"call-{number}"]


async def test_sticky_moves_at_most_its_fair_share_when_a_deployment_leaves() -> None:
    clock = Clock()
    found = {name: Cloud(clock) for name in "abcde"}
    sessions = [f"session-{number}" for number in range(400)]
    async with bench(found, ["breaker", "sticky"], clock) as bed:
        before = await homes(bed, sessions)
        assert await homes(bed, sessions) == before, "a session stays where it is"
        found["c"].status = 500
        await bed.calls(30)
        for _ in range(6):
            facts = bed.served.gateway.fleet.routes["llama"].lanes["c"].facts
            if facts.failures >= 5:
                break
            await homes(bed, sessions)
        after = await homes(bed, sessions)
    moved = [s for s in sessions if before[s] != after[s]]
    assert all(before[s] == "c" for s in moved), "only the sessions of the one that left move"
    assert len(moved) / len(sessions) < 0.3
    assert len({after[s] for s in moved}) == 4, "and they spread over all the others"


async def homes(bed: Bench, sessions: list[str]) -> dict[str, str]:
    found = {}
    for session in sessions:
        _, headers = await bed.call(headers={"x-arriero-session": session})
        found[session] = headers["x-arriero-deployment"]
    return found


async def test_a_long_prompt_goes_where_it_fits_or_is_refused() -> None:
    clock = Clock()
    found = {"small": Cloud(clock), "large": Cloud(clock)}
    windows = {"small": {"context_tokens": 1000}, "large": {"context_tokens": 10_000}}
    async with bench(found, ["context_window"], clock, windows) as bed:
        assert await bed.calls(3) == {"small": 3}
        assert await bed.calls(3, prompt="word " * 2000) == {"large": 3}
        status, _ = await bed.call(prompt="word " * 20_000)
        assert status == 400


async def test_a_feature_goes_where_it_is_offered_or_is_refused() -> None:
    clock = Clock()
    found = {"plain": Cloud(clock), "tools": Cloud(clock)}
    features = {
        "plain": {"features": ["chat", "stream"]},
        "tools": {"features": ["chat", "stream", "tools", "stream_tools"]},
    }
    tool = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    async with bench(found, [{"capability": {"missing": "strict"}}], clock, features) as bed:
        assert await bed.calls(3) == {"plain": 3}
        assert await bed.calls(3, tools=tool) == {"tools": 3}
        status, _ = await bed.call(logprobs=True)
        assert status == 400


async def test_a_budget_of_an_account_moves_calls_and_a_new_day_brings_them_back() -> None:
    clock = Clock()
    wall = Clock(1_795_305_600.0)  # 2026-11-22 00:00 UTC
    found = {"paid": Cloud(clock), "other": Cloud(clock)}
    each = {name: {"price": {"in": 10, "out": 0}} for name in found}  # 100 prompt tokens: $0.001 a call
    policies = [{"budget": {"account": "paid", "usd": 0.01, "per": "day"}}]
    async with bench(found, policies, clock, each, wall=wall) as bed:
        assert await bed.calls(30) == {"paid": 10, "other": 20}
        wall.advance(86_400)
        bed.served.gateway.fleet.health.roll(wall())
        assert await bed.calls(15) == {"paid": 10, "other": 5}
