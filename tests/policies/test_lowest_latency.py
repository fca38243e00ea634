"""Lowest latency: the fastest of late, met first, explored seldom, and never a fast failure."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.types import Candidate, Speed
from policies.lowest_latency import LowestLatency
from tests.policies.cases import NOW, call, candidate, heard, names
from tests.policies.simulation import Cloud, World, noisily, shares, steadily

NEVER_EXPLORE = LowestLatency(explore=0.0)
ALWAYS_EXPLORE = LowestLatency(explore=1.0)


def streams(name: str, ttft_s: float, tpot_s: float = 0.01, **said: Any) -> Candidate:
    return candidate(name, stream=Speed(heard(ttft_s), heard(tpot_s)), **said)


def order(*fleet: Candidate, policy: LowestLatency = NEVER_EXPLORE, **asked: Any) -> list[str]:
    return names(policy.apply(call(**{"stream": True, **asked}), fleet, NOW).kept)


class TestWhatIsFast:
    def test_the_time_to_the_first_token_or_to_the_whole_answer(self) -> None:
        quick_start, quick_writer = streams("quick-start", 0.2, 0.030), streams("quick-writer", 0.6, 0.010)
        total = LowestLatency(metric="total", explore=0.0)
        assert order(quick_writer, quick_start)[0] == "quick-start"
        # 200 tokens: 0.2 + 6.0 s and 0.6 + 2.0 s; 10 tokens: 0.5 and 0.7 s
        assert order(quick_start, quick_writer, policy=total, expected_output_tokens=200)[0] == "quick-writer"
        assert order(quick_writer, quick_start, policy=total, expected_output_tokens=10)[0] == "quick-start"

    def test_the_median_or_the_95th_percentile(self) -> None:
        steady = candidate("steady", stream=Speed(heard(0.4, 0.5)))
        jumpy = candidate("jumpy", stream=Speed(heard(0.3, 2.0)))
        assert order(steady, jumpy)[0] == "jumpy"
        assert order(jumpy, steady, policy=LowestLatency(percentile="p95", explore=0.0))[0] == "steady"

    def test_streams_and_plain_calls_are_told_apart(self) -> None:
        one = candidate("one", stream=Speed(heard(0.2), heard(0.01)), plain=Speed(heard(9.0), heard(0.045)))
        two = candidate("two", stream=Speed(heard(0.5), heard(0.01)), plain=Speed(heard(3.0), heard(0.015)))
        assert order(two, one, stream=True)[0] == "one"
        assert order(one, two, stream=False)[0] == "two"

    def test_the_time_per_token_of_a_plain_call_covers_the_whole_answer(self) -> None:
        long_ones = candidate("long-ones", plain=Speed(heard(9.0), heard(0.010)))
        short_ones = candidate("short-ones", plain=Speed(heard(3.0), heard(0.030)))
        total = LowestLatency(metric="total", explore=0.0)
        assert order(short_ones, long_ones, policy=total, stream=False)[0] == "long-ones"

    def test_near_equals_share_the_calls_by_weight(self) -> None:
        fleet = [streams("a", 0.30), streams("b", 0.32, weight=3.0), streams("c", 0.34)]
        orders = [names(NEVER_EXPLORE.apply(call(n, stream=True), fleet, NOW).kept) for n in range(2_000)]
        assert sum(each[0] == "b" for each in orders) / 2_000 == pytest.approx(0.75, abs=0.03)
        assert all(each[-1] == "c" for each in orders)

    def test_equals_keep_the_order_they_came_in_when_nothing_is_tolerated(self) -> None:
        exact = LowestLatency(tolerance=0.0, explore=0.0)
        assert order(streams("c", 0.3), streams("a", 0.3), streams("b", 0.2), policy=exact) == ["b", "c", "a"]


class TestFailures:
    def test_a_failed_try_is_charged_5_seconds_at_the_error_rate(self) -> None:
        # one in ten of 20 recent calls counts as 0.0952: (0.1 + 5 x 0.0952) / (1 - 0.0952) = 0.637 s
        exact = LowestLatency(tolerance=0.0, explore=0.0)
        flaky = streams("flaky", 0.1, error_rate=0.1, recent=20.0)
        assert order(flaky, streams("slow", 0.63), policy=exact)[0] == "slow"
        assert order(streams("slow", 0.65), flaky, policy=exact)[0] == "flaky"

    def test_one_failed_attempt_long_ago_weighs_little(self) -> None:
        assert order(streams("once", 0.1, error_rate=1.0, recent=0.01), streams("slow", 0.3))[0] == "once"

    def test_who_failed_rests_5_seconds_then_twice_as_long_each_time(self) -> None:
        slow = streams("slow", 2.0)
        for failures, rest_s in ((1, 5.0), (2, 10.0), (4, 40.0), (12, 300.0)):
            tired = streams("tired", 0.1, failures=failures, failed_at=NOW - rest_s + 0.1)
            rested = streams("tired", 0.1, failures=failures, failed_at=NOW - rest_s)
            assert order(tired, slow) == ["slow", "tired"], failures
            assert order(slow, rested) == ["tired", "slow"], failures

    def test_after_its_rest_one_call_at_a_time_tries_it(self) -> None:
        trying = streams("trying", 0.1, failures=1, failed_at=NOW - 6.0, in_flight=1)
        assert order(trying, streams("slow", 2.0)) == ["slow", "trying"]

    def test_who_cools_comes_last_and_the_soonest_back_before_the_others(self) -> None:
        fleet = [
            streams("long", 0.1, cooling_until=NOW + 60.0),
            streams("short", 0.1, cooling_until=NOW + 3.0),
            streams("slow", 2.0),
        ]
        selection = NEVER_EXPLORE.apply(call(stream=True), fleet, NOW)
        assert names(selection.kept) == ["slow", "short", "long"]
        assert selection.note == "short rests 3.0 s more"

    @pytest.mark.parametrize("rate_per_s", [5.0, 50.0])
    @pytest.mark.parametrize("cools_s", [0.0, 1.0])
    @pytest.mark.parametrize("loved_before", [0, 300])
    def test_a_cloud_that_answers_429_in_a_millisecond_gets_under_2_percent(
        self, rate_per_s: float, cools_s: float, loved_before: int
    ) -> None:
        trap = Cloud("trap", steadily(0.05))
        trap.cools_s = cools_s
        world = World(
            [trap, *(Cloud(f"d{n}", steadily(0.3 + n / 10)) for n in range(4))], LowestLatency(), rate_per_s=rate_per_s
        )
        world.run(loved_before)
        trap.faulty = lambda _: True
        first_2_s = world.run(int(2 * rate_per_s))
        assert sum(tried.name == "trap" for tried in first_2_s) <= 5, "answers still on their way may praise it"
        later = world.run(1_000)
        assert sum(tried.name == "trap" for tried in later) / 1_000 < 0.02
        assert all(any(t.ok for t in later if t.number == n) for n in {t.number for t in later} - {later[-1].number})

    def test_a_cloud_that_refuses_every_second_call_fast_is_not_attractive(self) -> None:
        coin = iter(range(10**6))
        half = Cloud("half", steadily(0.05), lambda _: next(coin) % 2 == 0)
        world = World([half, Cloud("sound", steadily(0.5))], LowestLatency(), rate_per_s=10.0)
        world.run(60)
        assert shares(world.run(2_000)).get("half", 0.0) < 0.05


class TestTheUnknown:
    def test_a_newcomer_is_met_with_three_calls_one_at_a_time(self) -> None:
        known = candidate("known", stream=Speed(heard(0.2, samples=3)))
        for samples in (1, 2):
            met = candidate("new", stream=Speed(heard(0.9, samples=samples)))
            assert order(known, met)[0] == "new"
        assert order(known, candidate("new"))[0] == "new"
        assert order(known, candidate("new", in_flight=1))[0] == "known", "it has pending work"
        assert order(known, candidate("new", stream=Speed(heard(0.9, samples=3))))[0] == "known"
        assert order(known, candidate("new", failures=1, failed_at=NOW - 60.0))[0] == "known", "it has failed already"

    def test_once_the_best_is_well_known_what_was_half_forgotten_is_not_met_again(self) -> None:
        known = candidate("known", stream=Speed(heard(0.2, samples=24)))
        assert order(known, candidate("faded", stream=Speed(heard(0.9, samples=1))))[0] == "known"
        assert order(known, candidate("new"))[0] == "new"

    def test_a_newcomer_to_streams_is_one_even_if_its_plain_calls_are_known(self) -> None:
        plain_only = candidate("plain-only", plain=Speed(heard(0.1)))
        assert order(streams("known", 0.2), plain_only, stream=True)[0] == "plain-only"

    def test_with_nothing_known_at_all_calls_spread_over_the_least_loaded(self) -> None:
        fleet = [candidate("a", in_flight=2), candidate("b", in_flight=1), candidate("c", in_flight=1)]
        firsts = [names(NEVER_EXPLORE.apply(call(n, stream=True), fleet, NOW).kept)[0] for n in range(200)]
        assert set(firsts) == {"b", "c"}
        assert 60 < firsts.count("b") < 140

    def test_what_is_stale_is_explored_and_the_oldest_of_it_first(self) -> None:
        best = streams("best", 0.1)
        old = candidate("old", stream=Speed(heard(0.5, age_s=61.0)))
        older = candidate("older", stream=Speed(heard(0.6, age_s=75.0)))
        selection = ALWAYS_EXPLORE.apply(call(stream=True), [best, old, older], NOW)
        assert names(selection.kept) == ["older", "best", "old"]
        assert selection.note == "exploring older: last sample 75 s old"
        fresh = candidate("fresh", stream=Speed(heard(0.5, age_s=59.0)))
        assert order(best, fresh, policy=ALWAYS_EXPLORE)[0] == "best"

    @pytest.mark.parametrize(
        "trouble",
        [
            {"cooling_until": NOW + 1.0},
            {"failures": 3, "failed_at": NOW - 19.0},
            {"in_flight": 1},
        ],
    )
    def test_never_explored_are_those_that_cool_fail_or_are_being_explored(self, trouble: dict[str, Any]) -> None:
        unknown = candidate("unknown", **trouble)
        stale = candidate("stale", stream=Speed(heard(0.5, age_s=600.0)), **trouble)
        assert order(streams("best", 0.1), unknown, policy=ALWAYS_EXPLORE)[0] == "best"
        assert order(streams("best", 0.1), stale, policy=ALWAYS_EXPLORE)[0] == "best"

    @pytest.mark.parametrize("rate_per_s", [0.05, 1.0, 10.0, 50.0])
    def test_over_the_long_run_at_most_5_percent_of_the_calls_explore(self, rate_per_s: float) -> None:
        clouds = [Cloud(name, steadily(0.2 + number / 10)) for number, name in enumerate("abcdef")]
        world = World(clouds, LowestLatency(), rate_per_s=rate_per_s)
        world.run(60)
        others = 1.0 - shares(world.run(6_000))["a"]
        assert others <= 0.05
        assert others > 0.0, "but it does explore"


class TestATimeline:
    @pytest.mark.parametrize("best", range(6))
    @pytest.mark.parametrize("rate_per_s", [2.0, 20.0])
    def test_the_best_of_six_is_found_within_60_calls(self, best: int, rate_per_s: float) -> None:
        medians = [0.2 if number == best else 0.3 + number / 20 for number in range(6)]
        clouds = [Cloud(f"d{number}", noisily(median, seed=number)) for number, median in enumerate(medians)]
        world = World(clouds, LowestLatency(), rate_per_s=rate_per_s)
        world.run(60)
        assert shares(world.run(100))[f"d{best}"] >= 0.9

    @pytest.mark.parametrize(("slow_s", "metric"), [(0.6, "ttft"), (2.0, "ttft"), (2.0, "total")])
    def test_a_step_up_is_followed_within_30_calls(self, slow_s: float, metric: Any) -> None:
        clouds = [Cloud("loved", noisily(0.2, 1)), Cloud("second", noisily(0.35, 2)), Cloud("third", noisily(0.5, 3))]
        world = World(clouds, LowestLatency(metric=metric), rate_per_s=10.0)
        world.run(200)
        clouds[0].latency = noisily(slow_s, 4)
        world.run(30)
        assert shares(world.run(50)).get("loved", 0.0) <= 0.1

    def test_what_became_fast_again_is_found_by_exploring(self) -> None:
        slow_until: Callable[[float], float] = lambda now: 2.0 if now < 1100.0 else 0.1  # noqa: E731
        world = World([Cloud("changing", slow_until), Cloud("steady", steadily(0.3))], LowestLatency(), rate_per_s=10.0)
        assert shares(world.run(1_000))["steady"] > 0.95
        world.run(3_500)
        assert shares(world.run(200)).get("changing", 0.0) > 0.9


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"explore": 5}, "share of the calls from 0 to 1"),
        ({"stale_s": 0}, "seconds above 0"),
        ({"tolerance": -1}, "tolerance must be a share"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LowestLatency(**options)  # type: ignore[arg-type]
