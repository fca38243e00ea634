"""Lowest cost: the cheapest for this very call."""

import math
from collections import Counter

import pytest

from gateway.types import Price
from policies.lowest_cost import LowestCost
from tests.policies.cases import call, candidate, names, usd
from tests.policies.simulation import Cloud, World, shares, steadily

CHEAP_IN = candidate("cheap-in", price=usd(0.10, 1.00))
CHEAP_OUT = candidate("cheap-out", price=usd(0.60, 0.60))


def test_which_is_cheapest_depends_on_the_call() -> None:
    long_prompt = call(prompt_tokens=3_000, expected_output_tokens=200)  # 0.00050 and 0.00192 USD
    long_answer = call(prompt_tokens=200, expected_output_tokens=1_000)  # 0.00102 and 0.00072 USD
    fleet = [CHEAP_OUT, CHEAP_IN]
    assert names(LowestCost().apply(long_prompt, fleet, 0.0).kept) == ["cheap-in", "cheap-out"]
    assert names(LowestCost().apply(long_answer, fleet, 0.0).kept) == ["cheap-out", "cheap-in"]


def test_a_difference_of_one_nano_dollar_per_million_tokens_decides() -> None:
    fleet = [
        candidate("a", price=Price(720_000_001, 720_000_000)),
        candidate("b", price=Price(720_000_000, 720_000_000)),
    ]
    assert names(LowestCost().apply(call(prompt_tokens=1), fleet, 0.0).kept) == ["b", "a"]


def test_own_gpus_count_with_their_idle_time_or_with_what_one_more_call_adds() -> None:
    own = candidate("own", price=usd(3.0, 12.0), marginal=Price(0, 0))
    cloud = candidate("cloud", price=usd(0.72, 0.72), marginal=usd(0.72, 0.72))
    assert names(LowestCost(own_gpus="loaded").apply(call(), [own, cloud], 0.0).kept) == ["cloud", "own"]
    selection = LowestCost().apply(call(), [cloud, own], 0.0)
    assert names(selection.kept) == ["own", "cloud"]
    assert selection.note == "own GPUs by what one more call adds, not by the price shown: own"
    assert not LowestCost().apply(call(), [cloud, CHEAP_IN], 0.0).note


def test_what_has_no_price_comes_last_and_the_note_names_it() -> None:
    selection = LowestCost().apply(call(), [candidate("untold"), CHEAP_IN, candidate("new")], 0.0)
    assert names(selection.kept) == ["cheap-in", "untold", "new"]
    assert selection.note == "last, for want of a price: untold, new"


def test_equal_costs_keep_the_order_they_came_in() -> None:
    same = [candidate(name, price=usd(0.72, 0.72)) for name in ("c", "a", "b")]
    assert names(LowestCost().apply(call(), same, 0.0).kept) == ["c", "a", "b"]


def test_within_the_tolerance_calls_are_shared_by_weight() -> None:
    fleet = [
        candidate("cheapest", price=usd(1.00, 1.00), weight=1.0),
        candidate("near", price=usd(1.09, 1.09), weight=3.0),
        candidate("dear", price=usd(1.11, 1.11), weight=9.0),
    ]
    orders = [names(LowestCost(tolerance=0.1).apply(call(number), fleet, 0.0).kept) for number in range(4_000)]
    firsts = Counter(order[0] for order in orders)
    assert firsts["near"] / 4_000 == pytest.approx(0.75, abs=0.02)
    assert all(order[-1] == "dear" for order in orders)


def test_the_cheapest_of_five_gets_99_percent_of_the_calls() -> None:
    clouds = [
        Cloud(name, steadily(0.3), price=usd(price, price))
        for name, price in zip("abcde", (9, 5, 7, 3, 4), strict=True)
    ]
    assert shares(World(clouds, LowestCost()).run(1_000))["d"] >= 0.99


@pytest.mark.parametrize("tolerance", [-0.1, math.inf, math.nan])
def test_an_impossible_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance must be a share"):
        LowestCost(tolerance=tolerance)
