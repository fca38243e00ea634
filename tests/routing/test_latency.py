"""lowest_latency and objective over real sockets; the clouds' seconds pass on a clock that they turn."""

from collections import Counter

import pytest

from tests.harness import Clock
from tests.routing.clouds import Bench, Cloud, bench

SIX = {"a": 0.9, "b": 0.5, "c": 0.3, "d": 0.7, "e": 0.12, "f": 0.4}


def six(clock: Clock, seconds: dict[str, float] | None = None) -> dict[str, Cloud]:
    return {name: Cloud(clock, ttft_s=s) for name, s in (seconds or SIX).items()}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_the_best_of_six_is_found_within_60_calls(stream: bool) -> None:
    clock = Clock()
    async with bench(six(clock), ["lowest_latency"], clock) as bed:
        await bed.calls(60, stream=stream)
        after = await bed.calls(100, stream=stream)
    assert after["e"] >= 90, after


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_step_change_is_followed_within_30_calls(stream: bool) -> None:
    clock = Clock()
    found = six(clock)
    async with bench(found, ["lowest_latency"], clock) as bed:
        await bed.calls(100, stream=stream)
        found["e"].ttft_s = 2.0
        await bed.calls(30, stream=stream)
        after = await bed.calls(50, stream=stream)
    assert after["c"] >= 45, after


async def test_the_unknown_and_the_stale_get_at_most_five_per_cent() -> None:
    clock = Clock()
    found = six(clock)
    async with bench(found, [{"lowest_latency": {"stale_s": 5.0}}], clock) as bed:
        await bed.calls(60)
        bed.forget()
        after = await bed.calls(1000)
    assert 950 <= after["e"] < 1000, after
    assert all(after[name] for name in SIX), "every stale one is heard of again"


async def test_streams_and_plain_calls_are_kept_apart() -> None:
    """One cloud starts fast and writes slowly, the other the reverse: each kind of call finds its own best."""
    clock = Clock()
    quick = Cloud(clock, ttft_s=0.05, tpot_s=0.1, output_tokens=50)
    steady = Cloud(clock, ttft_s=0.5, tpot_s=0.001, output_tokens=50)
    async with bench({"quick": quick, "steady": steady}, [{"lowest_latency": {"explore": 0.0}}], clock) as bed:
        await bed.calls(20, stream=True)
        await bed.calls(20)
        assert await bed.calls(20, stream=True) == {"quick": 20}
        assert await bed.calls(20) == {"steady": 20}


async def test_a_cloud_that_answers_429_in_a_millisecond_attracts_nobody() -> None:
    clock = Clock()
    found = {
        name: Cloud(clock, ttft_s=s) for name, s in (("fast429", 0.01), ("b", 0.3), ("c", 0.4), ("d", 0.5), ("e", 0.6))
    }
    found["fast429"].status = 429
    async with bench(found, ["lowest_latency"], clock) as bed:
        answers = await bed.calls(1000)
        share = found["fast429"].attempts / sum(bed.attempts().values())
    assert "429" not in answers
    assert share < 0.02, share


async def total(bed: Bench, count: int) -> Counter[str]:
    return await bed.calls(count, stream=True, max_tokens=200)


async def test_total_weighs_first_token_and_length() -> None:
    clock = Clock()
    quick = Cloud(clock, ttft_s=0.05, tpot_s=0.05, output_tokens=200)
    steady = Cloud(clock, ttft_s=1.0, tpot_s=0.005, output_tokens=200)
    policies = [{"lowest_latency": {"metric": "total", "explore": 0.0}}]
    async with bench({"quick": quick, "steady": steady}, policies, clock) as bed:
        await total(bed, 10)
        assert await total(bed, 20) == {"steady": 20}


LIMITS = {"minimize": "cost", "subject_to": {"ttft_p95_s": 0.8}}


def priced(**usd: float) -> dict[str, dict[str, object]]:
    return {name: {"price": {"in": value, "out": value}} for name, value in usd.items()}


async def test_objective_takes_the_cheapest_that_meets_the_limits() -> None:
    clock = Clock()
    found = {"cheap-slow": Cloud(clock, 1.5), "middle": Cloud(clock, 0.5), "dear-fast": Cloud(clock, 0.1)}
    prices = priced(**{"cheap-slow": 0.1, "middle": 0.5, "dear-fast": 2.0})
    async with bench(found, [{"objective": LIMITS}], clock, prices) as bed:
        await bed.calls(30, stream=True)
        after = await bed.calls(100, stream=True)
        assert after["middle"] >= 95, after


async def test_objective_takes_the_nearest_when_none_meets_them_and_says_so() -> None:
    clock = Clock()
    found = {"far": Cloud(clock, 3.0), "near": Cloud(clock, 0.9), "farther": Cloud(clock, 5.0)}
    prices = priced(**{"far": 0.1, "near": 0.5, "farther": 0.05})
    async with bench(found, [{"objective": LIMITS}], clock, prices) as bed:
        await bed.calls(30, stream=True)
        after = await bed.calls(50, stream=True)
        assert after["near"] >= 45, after
        _, headers = await bed.call(stream=True)
        notes = (await bed.decision(headers))["notes"]
    assert any(note["policy"] == "objective" and "near" in note["note"] for note in notes), notes
