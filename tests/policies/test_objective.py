"""Objective: one goal within limits, the nearest when nobody meets them, and exploring only who could win."""

from decimal import Decimal
from typing import Any

import pytest

from gateway.config import loading
from gateway.errors import ConfigError
from gateway.types import Candidate, Price, Speed
from policies.objective import Limits, Objective
from tests.policies.cases import NOW, call, candidate, heard, names, usd
from tests.policies.simulation import Cloud, World, noisily, shares, steadily

FAST_ENOUGH = Objective(subject_to=Limits(ttft_p95_s=0.8), explore=0.0)


def streams(name: str, price: float, p95_s: float, **said: Any) -> Candidate:
    return candidate(name, price=usd(price, price), stream=Speed(heard(p95_s / 2, p95_s), heard(0.01, 0.02)), **said)


def order(policy: Objective, *fleet: Candidate, **asked: Any) -> list[str]:
    return names(policy.apply(call(**{"stream": True, **asked}), fleet, NOW).kept)


class TestCost:
    def test_the_cheapest_that_meets_the_limits_comes_first(self) -> None:
        fleet = [streams("dear", 2.00, 0.2), streams("cheap-slow", 0.10, 1.5), streams("middle", 0.72, 0.8)]
        assert order(FAST_ENOUGH, *fleet) == ["middle", "dear", "cheap-slow"]

    def test_when_nobody_meets_them_the_nearest_comes_first_and_the_note_says_so(self) -> None:
        fleet = [streams("far", 0.10, 2.4), streams("near", 2.00, 0.96), streams("middle", 0.72, 1.2)]
        selection = FAST_ENOUGH.apply(call(stream=True), fleet, NOW)
        assert names(selection.kept) == ["near", "middle", "far"]
        assert selection.note == "nobody meets the limits, near is nearest: ttft_p95_s is 1.20 times 0.8"

    def test_nearness_is_the_worst_limit_as_a_share_of_it(self) -> None:
        policy = Objective(subject_to=Limits(ttft_p95_s=0.5, error_rate=0.02), explore=0.0)
        slow = streams("slow", 1.0, 1.0)  # twice the limit on the first token
        flaky = streams("flaky", 1.0, 0.4, error_rate=0.03, recent=50.0)  # one and a half times that on errors
        both = streams("both", 1.0, 0.6, error_rate=0.05, recent=50.0)  # 1.2 and 2.5 times
        assert order(policy, both, slow, flaky) == ["flaky", "slow", "both"]

    def test_own_gpus_win_while_they_have_room(self) -> None:
        own = streams("own", 9.00, 0.5, marginal=Price(0, 0))
        cloud = streams("cloud", 0.72, 0.5)
        assert order(FAST_ENOUGH, cloud, own)[0] == "own"
        loaded = Objective(subject_to=Limits(ttft_p95_s=0.8), explore=0.0, own_gpus="loaded")
        assert order(loaded, own, cloud)[0] == "cloud"

    def test_equal_costs_keep_the_order_they_came_in(self) -> None:
        assert order(FAST_ENOUGH, *(streams(name, 0.72, 0.3) for name in "cab")) == ["c", "a", "b"]

    def test_without_a_price_it_comes_after_those_with_one(self) -> None:
        untold = candidate("untold", stream=Speed(heard(0.1)))
        assert order(FAST_ENOUGH, untold, streams("cloud", 0.72, 0.3)) == ["cloud", "untold"]


class TestEachLimit:
    def is_met(self, limits: dict[str, Any], one: Candidate, **asked: Any) -> bool:
        """A cheap one beside a dear one that meets everything."""
        meets_all = candidate(
            "dear", price=usd(1e-4, 1e-4), stream=Speed(heard(1e-6), heard(1e-9)), plain=Speed(heard(1e-6), heard(1e-9))
        )
        policy = loading.policy({"objective": {"subject_to": limits, "explore": 0}}, "policies[0]")[1]
        assert isinstance(policy, Objective)
        return order(policy, meets_all, one, **asked)[0] == one.name

    def test_on_the_first_token(self) -> None:
        one = candidate("one", price=usd(0, 0), stream=Speed(heard(0.3, 0.8)))
        assert self.is_met({"ttft_p50_s": 0.3, "ttft_p95_s": 0.8}, one)
        assert not self.is_met({"ttft_p50_s": 0.29}, one)
        assert not self.is_met({"ttft_p95_s": 0.79}, one)

    def test_on_the_first_token_holds_for_streams_only_as_a_plain_call_shows_none(self) -> None:
        one = candidate("one", price=usd(0, 0), plain=Speed(heard(9.0, 9.0), heard(0.02)))
        assert self.is_met({"ttft_p95_s": 0.8, "ttft_p50_s": 0.3}, one, stream=False)
        assert self.is_met({"ttft_p95_s": 0.8}, candidate("one", price=usd(0, 0)), stream=False)

    def test_on_the_whole_answer(self) -> None:
        one = candidate(
            "one", price=usd(0, 0), stream=Speed(heard(0.5), heard(0.01)), plain=Speed(heard(9), heard(0.02))
        )
        assert self.is_met({"total_p95_s": 2.5}, one, expected_output_tokens=200)
        assert not self.is_met({"total_p95_s": 2.5}, one, expected_output_tokens=201)
        assert self.is_met({"total_p95_s": 4.0}, one, expected_output_tokens=200, stream=False)
        assert not self.is_met({"total_p95_s": 4.0}, one, expected_output_tokens=201, stream=False)

    def test_on_the_time_per_token(self) -> None:
        one = candidate("one", price=usd(0, 0), stream=Speed(heard(0.5), heard(0.01, 0.02)))
        assert self.is_met({"tpot_p95_s": 0.02}, one)
        assert not self.is_met({"tpot_p95_s": 0.019}, one)

    def test_on_the_error_rate_once_there_are_five_recent_calls(self) -> None:
        assert self.is_met({"error_rate": 0.02}, streams("one", 0.0, 0.5, error_rate=0.02, recent=50.0))
        assert not self.is_met({"error_rate": 0.02}, streams("one", 0.0, 0.5, error_rate=0.021, recent=50.0))
        assert self.is_met({"error_rate": 0.02}, streams("one", 0.0, 0.5, error_rate=0.5, recent=4.0))

    def test_on_the_cost_of_this_call_to_the_nano_dollar(self) -> None:
        fast = candidate(
            "fast", price=Price(0, 50_000_000), stream=Speed(heard(0.1))
        )  # 200 tokens: 10,000 nano-dollars
        slow = candidate("slow", price=Price(0, 0), stream=Speed(heard(0.9)))
        for cap, first in (("0.000010", "fast"), ("0.000009999", "slow")):
            limits = Limits(cost_usd=Decimal(cap))
            policy = Objective(minimize="latency", subject_to=limits, explore=0.0)
            assert order(policy, slow, fast)[0] == first

    def test_what_has_no_price_does_not_meet_a_limit_on_cost(self) -> None:
        fast = candidate("fast", stream=Speed(heard(0.1)))
        policy = Objective(minimize="latency", subject_to=Limits(cost_usd=Decimal(1)), explore=0.0)
        assert order(policy, fast, streams("priced", 0.72, 2.0)) == ["priced", "fast"]


ALL_LIMITS = {
    "ttft_p50_s": 0.2,
    "ttft_p95_s": 0.5,
    "tpot_p95_s": 0.02,
    "total_p95_s": 4.0,
    "error_rate": 0.02,
    "cost_usd": 0.001,
}


@pytest.mark.parametrize(
    ("p50_s", "p95_s", "tpot_s", "error_rate", "nano", "worst"),
    [
        (0.6, 1.0, 0.01, 0.0, 0, "ttft_p50_s is 3.00 times 0.2"),
        (0.3, 1.0, 0.01, 0.0, 0, "ttft_p95_s is 2.00 times 0.5"),
        (0.3, 0.7, 0.04, 0.0, 0, "total_p95_s is 2.17 times 4.0"),
        (0.1, 0.1, 0.03, 0.0, 0, "total_p95_s is 1.52 times 4.0"),
        (0.3, 1.0, 0.01, 0.05, 0, "error_rate is 2.50 times 0.02"),
        (0.6, 1.0, 0.01, 0.05, 0, "ttft_p50_s is 3.00 times 0.2"),
        (0.1, 0.1, 0.01, 0.05, 4_000_000, "cost_usd is 4.00 times 0.001"),
        (0.1, 0.1, 0.01, 0.10, 4_000_000, "error_rate is 5.00 times 0.02"),
    ],
)
def test_the_worst_of_all_limits_is_the_one_that_is_told(
    p50_s: float, p95_s: float, tpot_s: float, error_rate: float, nano: int, worst: str
) -> None:
    one = candidate(
        "one",
        price=Price(0, nano * 5_000),  # 200 expected tokens at this price cost `nano`
        stream=Speed(heard(p50_s, p95_s), heard(tpot_s)),
        error_rate=error_rate,
        recent=50.0,
    )
    policy = loading.policy({"objective": {"subject_to": ALL_LIMITS, "explore": 0}}, "policies[0]")[1]
    selection = policy.apply(call(stream=True, expected_output_tokens=200), [one], NOW)
    assert selection.note == f"nobody meets the limits, one is nearest: {worst}"


def test_the_time_per_token_is_told_when_it_is_missed_by_more_than_the_whole_answer() -> None:
    one = candidate("one", price=usd(0, 0), stream=Speed(heard(0.1), heard(0.06)))
    limits = Limits(tpot_p95_s=0.02, total_p95_s=10.0)
    selection = Objective(subject_to=limits, explore=0.0).apply(call(stream=True), [one], NOW)
    assert selection.note.endswith("tpot_p95_s is 3.00 times 0.02")


class TestLatency:
    def test_the_fastest_within_the_limits_comes_first(self) -> None:
        policy = Objective(minimize="latency", subject_to=Limits(error_rate=0.02), explore=0.0)
        fleet = [
            streams("slow", 0.1, 0.9),
            streams("flaky", 0.1, 0.2, error_rate=0.1, recent=50.0),
            streams("fast", 9, 0.4),
        ]
        assert order(policy, *fleet) == ["fast", "slow", "flaky"]

    def test_metric_and_percentile_mean_what_they_mean_in_lowest_latency(self) -> None:
        jumpy = candidate("jumpy", price=usd(1, 1), stream=Speed(heard(0.1, 2.0), heard(0.05)))
        steady = candidate("steady", price=usd(1, 1), stream=Speed(heard(0.4, 0.5), heard(0.01)))
        assert order(Objective(minimize="latency", explore=0.0), steady, jumpy)[0] == "jumpy"
        assert order(Objective(minimize="latency", percentile="p95", explore=0.0), jumpy, steady)[0] == "steady"
        assert order(Objective(minimize="latency", metric="total", explore=0.0), jumpy, steady)[0] == "steady"


class TestTheUnknown:
    def test_a_cheaper_newcomer_is_met_and_a_dearer_one_is_not(self) -> None:
        known = streams("known", 0.72, 0.3)
        assert order(FAST_ENOUGH, known, candidate("cheaper", price=usd(0.5, 0.5)))[0] == "cheaper"
        assert order(FAST_ENOUGH, known, candidate("dearer", price=usd(0.9, 0.9)))[0] == "known"

    def test_when_nobody_meets_the_limits_any_newcomer_is_met(self) -> None:
        assert order(FAST_ENOUGH, streams("slow", 0.72, 3.0), candidate("dearer", price=usd(0.9, 0.9)))[0] == "dearer"

    def test_one_with_pending_work_gets_no_more(self) -> None:
        pending = candidate("cheaper", price=usd(0.5, 0.5), in_flight=1)
        assert order(FAST_ENOUGH, pending, streams("slow", 0.72, 3.0)) == ["slow", "cheaper"]

    def test_without_limits_on_latency_nothing_need_be_known(self) -> None:
        cheapest = candidate("cheapest", price=usd(0.1, 0.1), in_flight=50)
        assert order(Objective(explore=0.0), streams("known", 0.72, 0.3), cheapest)[0] == "cheapest"

    def test_a_cheaper_one_that_missed_a_limit_long_ago_is_explored(self) -> None:
        policy = Objective(subject_to=Limits(ttft_p95_s=0.8), explore=1.0)
        stale = candidate("stale", price=usd(0.1, 0.1), stream=Speed(heard(1.0, 2.0, age_s=90.0)))
        selection = policy.apply(call(stream=True), [streams("known", 0.72, 0.3), stale], NOW)
        assert names(selection.kept) == ["stale", "known"]
        assert selection.note == "exploring stale: last sample 90 s old"
        dearer = candidate("dearer", price=usd(0.9, 0.9), stream=Speed(heard(1.0, 2.0, age_s=90.0)))
        assert order(policy, streams("known", 0.72, 0.3), dearer)[0] == "known"

    def test_when_latency_is_minimized_what_costs_too_much_is_not_explored(self) -> None:
        limits = Limits(cost_usd=Decimal("0.001"))
        policy = Objective(minimize="latency", subject_to=limits, explore=1.0)
        known = streams("known", 0.72, 0.5)
        stale = {"stream": Speed(heard(0.4, age_s=90.0))}
        assert order(policy, known, candidate("cheap", price=usd(0.5, 0.5), **stale))[0] == "cheap"
        assert order(policy, known, candidate("dear", price=usd(50, 50), **stale))[0] == "known"
        slow_too = streams("dear", 50.0, 900.0)
        assert order(policy, known, slow_too)[0] == "known"


class TestTrouble:
    def test_who_failed_or_cools_comes_last_however_cheap(self) -> None:
        tired = streams("tired", 0.01, 0.1, failures=1, failed_at=NOW - 1.0)
        cooling = streams("cooling", 0.01, 0.1, cooling_until=NOW + 2.0)
        selection = FAST_ENOUGH.apply(call(stream=True), [tired, cooling, streams("slow", 0.72, 3.0)], NOW)
        assert names(selection.kept) == ["slow", "cooling", "tired"]
        assert selection.note.endswith("cooling rests 2.0 s more")


class TestATimeline:
    def clouds(self) -> list[Cloud]:
        return [
            Cloud("dear", noisily(0.2, 1), price=usd(2.0, 2.0)),
            Cloud("cheap", noisily(0.3, 2), price=usd(0.1, 0.1)),
            Cloud("middle", noisily(0.3, 3), price=usd(0.7, 0.7)),
        ]

    def test_the_cheapest_gets_nearly_all_while_it_is_fast_enough(self) -> None:
        world = World(self.clouds(), Objective(subject_to=Limits(ttft_p95_s=0.9)))
        assert shares(world.run(500))["cheap"] >= 0.99

    def test_when_it_slows_down_the_next_cheapest_takes_over_and_gives_back(self) -> None:
        clouds = self.clouds()
        world = World(clouds, Objective(subject_to=Limits(ttft_p95_s=0.9)))
        world.run(100)
        clouds[1].latency = steadily(1.5)
        world.run(30)
        assert shares(world.run(300))["middle"] >= 0.9
        clouds[1].latency = steadily(0.2)
        world.run(12_000)
        assert shares(world.run(300))["cheap"] >= 0.9

    def test_exploring_takes_at_most_5_percent(self) -> None:
        clouds = self.clouds()
        clouds[1].latency = steadily(1.5)
        world = World(clouds, Objective(subject_to=Limits(ttft_p95_s=0.9), stale_s=1.0), rate_per_s=20.0)
        world.run(60)
        assert 0.0 < 1.0 - shares(world.run(4_000))["middle"] <= 0.05


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"subject_to": {"ttft_p95_s": 0}}, "ttft_p95_s must be seconds above 0"),
        ({"subject_to": {"error_rate": 2}}, "error_rate must be a share"),
        ({"subject_to": {"error_rate": 0}}, "error_rate must be a share"),
        ({"subject_to": {"cost_usd": "0.0000000009"}}, "cost_usd must be US dollars"),
        ({"subject_to": {"cost_usd": 0}}, "cost_usd must be US dollars"),
        ({"subject_to": {"cost_usd": "nan"}}, "cost_usd must be US dollars"),
        ({"subject_to": {"ttft_p99_s": 1}}, "ttft_p95_s"),
        ({"minimize": "price"}, "price"),
        ({"explore": 2}, "share of the calls"),
    ],
)
def test_impossible_options_are_refused_with_the_nearest_word(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        loading.policy({"objective": options}, "policies[0]")
