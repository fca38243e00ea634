"""Weighted: shares of the traffic, the same for the same call."""

from collections import Counter

import pytest

from policies.weighted import Weighted
from tests.policies.cases import call, candidate, names

CALLS = 20_000


def orders(**weights: float) -> list[list[str]]:
    fleet = [candidate(name, weight=weight) for name, weight in weights.items()]
    return [names(Weighted().apply(call(number), fleet, 0.0).kept) for number in range(CALLS)]


def test_each_is_first_with_its_share_of_the_weights_within_2_percent() -> None:
    firsts = Counter(order[0] for order in orders(canary=5, a1=45, a2=30, a3=20))
    for name, weight in {"canary": 5, "a1": 45, "a2": 30, "a3": 20}.items():
        assert firsts[name] / CALLS == pytest.approx(weight / 100, abs=0.02 * weight / 100 + 0.004)


def test_names_of_one_length_share_fairly_too() -> None:
    """A linear hash gave a1, a2 and a3 shares of 50, 25 and 25 %."""
    firsts = Counter(order[0] for order in orders(a1=1, a2=1, a3=1))
    assert all(count / CALLS == pytest.approx(1 / 3, rel=0.03) for count in firsts.values())


def test_fallbacks_follow_the_weights_that_are_left() -> None:
    seconds = Counter(order[1] for order in orders(a=2, b=3, c=1) if order[0] == "a")
    assert seconds["b"] / seconds.total() == pytest.approx(3 / 4, abs=0.02)


def test_the_same_call_goes_the_same_way_and_a_weight_that_changes_moves_only_its_difference() -> None:
    before, again, after = orders(a=50, b=50), orders(a=50, b=50), orders(a=60, b=50)
    assert before == again
    moved = [(was[0], now[0]) for was, now in zip(before, after, strict=True) if was[0] != now[0]]
    assert all(pair == ("b", "a") for pair in moved)
    assert len(moved) / CALLS == pytest.approx(60 / 110 - 1 / 2, abs=0.01)


def test_weight_zero_comes_last() -> None:
    assert all(order[-1] == "off" for order in orders(off=0, a=1, b=0.001))
