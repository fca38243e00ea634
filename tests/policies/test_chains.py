"""Policies one after the other: what a route's list means, read top to bottom."""

from typing import Any

from gateway.config import loading
from gateway.router import NamedPolicy, decide
from gateway.types import FEATURES, Candidate, Price, Room, Speed
from tests.policies.cases import NOW, call, candidate, heard, usd
from tests.policies.simulation import Cloud, World, shares, steadily

ALL = frozenset(FEATURES)


def chain(*words: Any) -> list[NamedPolicy]:
    return [NamedPolicy(*loading.policy(word, "policies[0]")) for word in words]


def cloud(name: str, price: float, p95_s: float, **said: Any) -> Candidate:
    said.setdefault("features", ALL)
    said.setdefault("context_tokens", 131_072)
    return candidate(name, price=usd(price, price), stream=Speed(heard(p95_s / 2, p95_s)), **said)


FLEET = [
    cloud("own", 9.0, 0.3, region="eu", trust="private", marginal=Price(0, 0), kv_used=0.98, queue=4),
    cloud("aws-eu", 0.99, 0.7, region="eu-west-1", trust="private"),
    cloud("aws-us", 0.72, 0.6, region="us-west-2", trust="private"),
    cloud("groq", 0.59, 0.1, region="us", failures=6, failed_at=NOW - 1.0),
    cloud("azure-eu", 0.80, 0.9, region="eu-sweden", room=Room(tokens_left=0.01, tokens_reset=NOW + 30.0)),
    cloud("small", 0.05, 0.2, region="eu", context_tokens=8_192, features=frozenset({"chat", "stream"})),
]
SENTENCE = (
    "residency",
    {"sensitivity": {"restricted": ["own"], "internal": ["trust:private"]}},
    "capability",
    "context_window",
    "breaker",
    "headroom",
    {"objective": {"minimize": "cost", "subject_to": {"ttft_p95_s": 0.8}, "explore": 0}},
)


def test_residency_to_objective() -> None:
    """Cheapest whose p95 first token is under 0.8 s, in the EU only if the label says so."""
    asked = call(stream=True, labels={"region": "eu"}, features=frozenset({"chat", "stream", "tools"}))
    decision = decide(asked, FLEET, chain(*SENTENCE), NOW)
    assert [each.name for each in decision.order] == ["aws-eu"]
    assert {name: policy for name, (policy, _) in decision.removed.items()} == {
        "aws-us": "residency",
        "groq": "residency",
        "small": "capability",
        "own": "headroom",
        "azure-eu": "headroom",
    }


def test_sensitivity_leaves_only_own_gpus_even_when_they_are_full() -> None:
    asked = call(stream=True, labels={"sensitivity": "restricted"})
    decision = decide(asked, FLEET, chain(*SENTENCE), NOW)
    assert [each.name for each in decision.order] == ["own"]
    assert ("headroom", "nobody has room; most has own: KV cache 98.0% used, keeps 5% free") in decision.notes


def test_objective_then_tier_is_by_tier_and_by_cost_within_one() -> None:
    fleet = [
        cloud("b2", 0.2, 0.3, tier=2),
        cloud("c1", 0.9, 0.3, tier=1),
        cloud("a2", 0.1, 0.3, tier=2),
        cloud("d1", 0.8, 0.3, tier=1),
    ]
    decision = decide(call(stream=True), fleet, chain("objective", "tier"), NOW)
    assert [each.name for each in decision.order] == ["d1", "c1", "a2", "b2"]


def test_weighted_then_lowest_cost_shares_exact_ties_by_weight() -> None:
    fleet = [cloud("a", 0.72, 0.3, weight=3.0), cloud("b", 0.72, 0.3), cloud("dear", 9.0, 0.3, weight=100.0)]
    firsts = [decide(call(n), fleet, chain("weighted", "lowest_cost"), NOW).order[0].name for n in range(2_000)]
    assert 0.72 <= firsts.count("a") / 2_000 <= 0.78
    assert "dear" not in firsts


def test_lowest_latency_then_lowest_cost_breaks_ties_of_cost_by_speed() -> None:
    fleet = [cloud("slow", 0.72, 0.9), cloud("fast", 0.72, 0.2), cloud("dear", 0.99, 0.1)]
    words = ({"lowest_latency": {"explore": 0, "tolerance": 0}}, "lowest_cost")
    assert [each.name for each in decide(call(stream=True), fleet, chain(*words), NOW).order] == [
        "fast",
        "slow",
        "dear",
    ]


def test_breaker_to_headroom_to_lowest_cost_survives_that_everything_breaks() -> None:
    """Every policy that may not leave nobody leaves somebody, whatever came before it."""
    broken = [
        cloud("a", 0.1, 0.3, failures=9, failed_at=NOW, cooling_until=NOW + 60.0, kv_used=1.0),
        cloud("b", 0.2, 0.3, failures=7, failed_at=NOW, room=Room(0.0, NOW + 9.0, 0.0, NOW + 9.0)),
    ]
    decision = decide(call(stream=True), broken, chain("breaker", "headroom", "lowest_cost"), NOW)
    assert [each.name for each in decision.order] == ["b"]


def test_breaker_to_objective_gives_a_recovered_cloud_its_traffic_back() -> None:
    """60 s of refusals at the cheapest, 10 calls a second: nobody notices but the first few, and it comes back."""
    cheap = Cloud("cheap", steadily(0.2), lambda now: 1010.0 <= now < 1070.0, price=usd(0.1, 0.1))
    clouds = [cheap, Cloud("dear", steadily(0.2), price=usd(1.0, 1.0))]
    policies = [named.policy for named in chain("breaker", "headroom", SENTENCE[-1])]
    world = World(clouds, *policies)
    assert shares(world.run(90))["cheap"] > 0.95
    during = world.run(700)
    assert sum(tried.name == "cheap" and not tried.ok for tried in during) <= 8
    assert not {t.number for t in during if not t.ok} - {t.number for t in during if t.ok}, "every call was answered"
    world.run(600)
    assert shares(world.run(300))["cheap"] > 0.95
