"""Tier: lower tiers first, everything else as it came."""

from policies.tier import Tier
from tests.policies.cases import call, candidate, names


def test_lower_tiers_come_first_and_each_tier_keeps_the_order_it_came_in() -> None:
    fleet = [candidate("c", tier=2), candidate("a", tier=1), candidate("d", tier=2), candidate("b", tier=1)]
    assert names(Tier().apply(call(), fleet, 0.0).kept) == ["a", "b", "c", "d"]


def test_the_next_tier_serves_when_the_one_before_is_empty() -> None:
    assert names(Tier().apply(call(), [candidate("c", tier=3), candidate("b", tier=2)], 0.0).kept) == ["b", "c"]
