"""What no call may ever do: counted at the clouds, retries included, under random faults."""

import random
from collections import Counter

from tests.harness import Clock
from tests.routing.clouds import Cloud, bench

REGIONS = {"eu-1": "eu", "eu-2": "eu-central-1", "us-1": "us", "us-2": "us-east-1", "own-eu": "eu", "nowhere": None}
TRUST = {"own-eu": "private", "eu-1": "contract"}


async def test_no_forbidden_attempt_in_10000_random_calls_with_random_faults() -> None:
    """Forbidden is an attempt outside the label's region, or outside the list of its sensitivity."""
    clock, dice = Clock(), random.Random(11)
    found = {name: Cloud(clock, ttft_s=0.01) for name in REGIONS}
    for number, cloud in enumerate(found.values()):
        cloud.fault_share, cloud.dice = 0.3, random.Random(number)
    deployments = {
        name: {"region": region, **({"trust": TRUST[name]} if name in TRUST else {})} if region else {}
        for name, region in REGIONS.items()
    }
    policies = [
        {"residency": {"label": "region"}},
        {"sensitivity": {"restricted": ["own-eu"], "internal": ["trust:private", "trust:contract"], "public": ["*"]}},
        "breaker",
        "lowest_latency",
    ]
    regions = {"eu": {"eu-1", "eu-2", "own-eu"}, "us": {"us-1", "us-2"}, "": set(REGIONS)}
    levels = {"restricted": {"own-eu"}, "internal": {"own-eu", "eu-1"}, "public": set(REGIONS), "": set(REGIONS)}
    statuses: Counter[int] = Counter()
    retried = 0
    async with bench(found, policies, clock, deployments) as bed:
        before = bed.attempts()
        for _ in range(10_000):
            region, level = dice.choice(list(regions)), dice.choice(list(levels))
            labels = ",".join(f"{k}={v}" for k, v in (("region", region), ("sensitivity", level)) if v)
            status, _ = await bed.call(
                headers={"x-arriero-labels": labels} if labels else None, stream=dice.random() < 0.3
            )
            after = bed.attempts()
            tried = {name for name in after if after[name] > before[name]}
            assert tried <= regions[region] & levels[level], (labels, tried)
            retried += sum(after.values()) - sum(before.values()) > 1
            statuses[status] += 1
            before = after
            clock.advance(0.05)
    assert retried > 500, "without retries this test would show little"
    assert statuses[200] > 5_000
    assert statuses[503] > 1_000, "us and restricted exclude each other: nobody may serve"
    assert set(statuses) <= {200, 502, 503}


async def test_a_label_of_the_key_holds_whatever_the_header_says() -> None:
    clock = Clock()
    found = {"eu": Cloud(clock), "us": Cloud(clock)}
    async with bench(
        found, [{"residency": {"label": "region"}}], clock, {"eu": {"region": "eu"}, "us": {"region": "us"}}
    ) as bed:
        status, _ = await bed.call(headers={"x-arriero-labels": "region=us"})
        assert (status, bed.attempts()) == (200, {"eu": 0, "us": 1})
        status, _ = await bed.call(headers={"x-arriero-labels": "region=mars"})
        assert (status, bed.attempts()) == (503, {"eu": 0, "us": 1})
