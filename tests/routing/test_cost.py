"""lowest_cost over real sockets: each call where this call's expected cost is least."""

import random

from tests.harness import Clock
from tests.routing.clouds import Cloud, bench


def price(in_: float, out: float) -> dict[str, object]:
    return {"price": {"in": in_, "out": out}}


async def test_every_call_goes_where_this_call_costs_least() -> None:
    """Four price lists that cross: who is cheapest depends on the length of the prompt and of the answers."""
    clock = Clock()
    found = {name: Cloud(clock) for name in ("flat", "cheap-in", "cheap-out", "dear")}
    prices = {"flat": (0.5, 0.5), "cheap-in": (0.1, 2.0), "cheap-out": (1.0, 0.1), "dear": (3.0, 9.0)}
    dice = random.Random(3)
    right: list[bool] = []
    async with bench(found, ["lowest_cost"], clock, {n: price(*p) for n, p in prices.items()}) as bed:
        for output_tokens in (5, 60, 700, 8000):
            for cloud in found.values():
                cloud.output_tokens = output_tokens
            await bed.calls(60)  # how long answers are on this route is learned from answers
            for _ in range(60):
                words = dice.choice((10, 100, 1000, 4000))
                status, headers = await bed.call(prompt="word " * words)
                assert status == 200
                prompt_tokens = (await bed.decision(headers))["prompt_tokens"]
                truth = {n: p[0] * prompt_tokens + p[1] * output_tokens for n, p in prices.items()}
                right.append(headers["x-arriero-deployment"] == min(truth, key=truth.__getitem__))
    assert sum(right) / len(right) >= 0.99


async def test_the_cheaper_input_price_loses_on_long_outputs() -> None:
    clock = Clock()
    found = {"cheap-in": Cloud(clock, output_tokens=2000), "cheap-out": Cloud(clock, output_tokens=2000)}
    prices = {"cheap-in": price(0.05, 2.0), "cheap-out": price(0.50, 0.10)}
    async with bench(found, ["lowest_cost"], clock, prices) as bed:
        assert await bed.calls(20, max_tokens=2000) == {"cheap-out": 20}
        found["cheap-in"].output_tokens = found["cheap-out"].output_tokens = 5
        assert await bed.calls(20, prompt="word " * 3000, max_tokens=5) == {"cheap-in": 20}


async def test_the_expected_output_is_learned_from_what_comes() -> None:
    """Without max_tokens the first call is a guess; after it the route's own answers say how long they are."""
    clock = Clock()
    found = {"cheap-in": Cloud(clock, output_tokens=2000), "cheap-out": Cloud(clock, output_tokens=2000)}
    prices = {"cheap-in": price(0.01, 1.0), "cheap-out": price(0.50, 0.50)}
    async with bench(found, ["lowest_cost"], clock, prices) as bed:
        first = await bed.calls(1, prompt="word " * 500)
        after = await bed.calls(20, prompt="word " * 500)
        assert first == {"cheap-in": 1}
        assert after == {"cheap-out": 20}


async def test_own_gpus_win_only_above_a_utilisation() -> None:
    """Fully loaded: $7.20 an hour is 2,000,000 nano-dollars a second. At 10 calls a second of 1,000 output tokens the
    tokens carry it for less than the cloud asks; at one call in ten seconds they do not."""
    clock = Clock()
    own = Cloud(clock, ttft_s=0.01, tpot_s=0.0, output_tokens=1000)
    cloud = Cloud(clock, ttft_s=0.01, tpot_s=0.0, output_tokens=1000)
    accounts = {"own": {"type": "vllm", "gpu_usd_per_hour": 7.2, "metrics_every_s": 0}}
    policies = [{"lowest_cost": {"own_gpus": "loaded"}}]
    async with bench({"own": own, "cloud": cloud}, policies, clock, {"cloud": price(0.3, 0.6)}, accounts) as bed:
        assert await bed.calls(5, max_tokens=1000) == {"cloud": 5}
        facts = bed.served.gateway.fleet.routes["llama"].lanes["own"].facts
        for _ in range(600):  # the servers are busy with other routes' calls
            clock.advance(0.1)
            facts.used(100, 1000, clock())
        assert await bed.calls(5, max_tokens=1000) == {"own": 5}
        clock.advance(600)
        assert await bed.calls(5, max_tokens=1000) == {"cloud": 5}


async def test_own_gpus_with_room_cost_nothing_more() -> None:
    clock = Clock()
    own, cloud = Cloud(clock), Cloud(clock)
    own.headers = {
        "endpoint-load-metrics": 'JSON {"named_metrics":{"num_requests_waiting":0.0,"kv_cache_usage_perc":0.3}}'
    }
    accounts = {"own": {"type": "vllm", "gpu_usd_per_hour": 7.2, "metrics_every_s": 0}}
    async with bench({"own": own, "cloud": cloud}, ["lowest_cost"], clock, {"cloud": price(0.3, 0.6)}, accounts) as bed:
        bed.served.gateway.fleet.routes["llama"].lanes["own"].facts.see_load(0, 0.3)
        assert await bed.calls(10, max_tokens=100) == {"own": 10}
        own.headers = {
            "endpoint-load-metrics": 'JSON {"named_metrics":{"num_requests_waiting":9.0,"kv_cache_usage_perc":0.99}}'
        }
        assert await bed.calls(10, max_tokens=100) == {"own": 1, "cloud": 9}
