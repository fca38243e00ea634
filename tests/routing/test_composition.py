"""The example of the design, end to end.

residency -> sensitivity -> capability -> context_window -> breaker -> headroom -> objective."""

import pytest

from gateway.config import loading
from gateway.errors import ConfigError
from tests.harness import Clock
from tests.routing.clouds import Bench, Cloud, bench

POLICIES = [
    {"residency": {"label": "region"}},
    {"sensitivity": {"restricted": ["own"]}},
    {"capability": {"missing": "strict"}},
    "context_window",
    "breaker",
    {"headroom": {"keep": 0.05}},
    {"objective": {"minimize": "cost", "subject_to": {"ttft_p95_s": 0.8, "error_rate": 0.02}}},
]
BASE = ["chat", "stream", "stop", "seed"]
DEPLOYMENTS = {
    "own": {
        "region": "eu",
        "price": {"in": 0.9, "out": 0.9},
        "context_tokens": 131_072,
        "features": [*BASE, "json_schema"],
    },
    "slow": {"region": "us", "price": {"in": 0.1, "out": 0.1}, "context_tokens": 131_072, "features": BASE},
    "cheap": {"region": "us", "price": {"in": 0.2, "out": 0.2}, "context_tokens": 8_192, "features": BASE},
    "azure": {"region": "eu", "price": {"in": 2.68, "out": 3.54}, "context_tokens": 131_072, "features": BASE},
}
SECONDS = {"own": 0.3, "slow": 1.5, "cheap": 0.2, "azure": 0.4}


async def met(bed: Bench) -> None:
    """The speed of everyone who may come first is known."""
    await bed.calls(40, stream=True)
    await bed.calls(40, stream=True, headers={"x-arriero-labels": "region=eu"})


async def test_the_example_of_the_design_reads_as_it_says() -> None:
    clock = Clock()
    found = {name: Cloud(clock, ttft_s=seconds) for name, seconds in SECONDS.items()}
    async with bench(found, POLICIES, clock, DEPLOYMENTS) as bed:
        await met(bed)
        # the cheapest that answers within 0.8 s; "slow" costs less and is too slow
        assert (await bed.calls(50, stream=True))["cheap"] >= 47
        # residency: only eu, and the cheapest of it
        eu = await bed.calls(50, stream=True, headers={"x-arriero-labels": "region=eu"})
        assert eu["own"] >= 47, eu
        # sensitivity: own only, and no other cloud sees an attempt
        bed.forget()
        assert await bed.calls(20, stream=True, headers={"x-arriero-labels": "sensitivity=restricted"}) == {"own": 20}
        assert sum(bed.attempts().values()) == 20
        # capability: only own offers json_schema
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
        assert await bed.calls(5, stream=True, response_format=schema) == {"own": 5}
        # context_window: too long for "cheap"; of the fast ones own is the cheapest
        long_ = await bed.calls(20, stream=True, prompt="word " * 10_000)
        assert long_["own"] >= 17, long_
        # breaker: "cheap" fails, its calls are served by the next best, nobody sees an error
        found["cheap"].status = 500
        broken = await bed.calls(40, stream=True)
        assert set(broken) <= {"own", "azure", "slow"}
        assert found["cheap"].attempts < 60 + 12


async def test_the_decision_tells_the_whole_story() -> None:
    clock = Clock()
    found = {name: Cloud(clock, ttft_s=seconds) for name, seconds in SECONDS.items()}
    async with bench(found, POLICIES, clock, DEPLOYMENTS) as bed:
        await met(bed)
        _, headers = await bed.call(stream=True, headers={"x-arriero-labels": "region=eu,sensitivity=restricted"})
        decision = await bed.decision(headers)
    removed = {c["deployment"]: c["removed_by"] for c in decision["candidates"]}
    assert removed == {"own": None, "slow": "residency", "cheap": "residency", "azure": "sensitivity"}
    assert all(c["reason"] for c in decision["candidates"] if c["removed_by"])
    assert decision["order"] == ["own"]
    assert decision["policies"] == [p if isinstance(p, str) else next(iter(p)) for p in POLICIES]
    own = next(c for c in decision["candidates"] if c["deployment"] == "own")
    assert own["price_usd_per_1m"] == {"in": "0.90", "out": "0.90"}
    assert own["latency"]["ttft"]["p50_s"] == pytest.approx(0.3)
    assert own["latency"]["ttft"]["age_s"] >= 0
    assert decision["attempts"][0]["outcome"] == "ok"
    assert decision["cost_usd"] == "0.000099"  # 110 tokens at $0.90 a million


@pytest.mark.parametrize("word", ["hedge: {after: ttft_p95, at_most: 0.05}", "on_break: continue"])
def test_words_of_a_later_version_are_refused_by_name(word: str) -> None:
    name = word.partition(":")[0]
    route = f"  llama:\n    deployments: [own]\n    {word}\n"
    with pytest.raises(ConfigError, match=f"routes.llama.{name}: .*not offered by this version"):
        loading.parse(f"providers: {{own: {{type: vllm, url: 'http://127.0.0.1:1/v1'}}}}\nroutes:\n{route}")
