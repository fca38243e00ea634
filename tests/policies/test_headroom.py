"""Headroom: draining before the limit, staying out while asked to, coming back gradually."""

import math

import pytest

from gateway.types import Candidate, Room
from policies.headroom import Headroom
from tests.policies.cases import NOW, call, candidate, names

CALLS = 2_000
ROOMY = candidate("roomy")


def share(nearly_full: Candidate, headroom: Headroom | None = None) -> float:
    """The share of calls for which it is kept beside one with all the room in the world."""
    policy = headroom or Headroom()
    kept = [policy.apply(call(number), [nearly_full, ROOMY], NOW).kept for number in range(CALLS)]
    return sum(len(each) == 2 for each in kept) / CALLS


def limited(**room: float) -> Candidate:
    return candidate("cloud", room=Room(**{"requests_reset": NOW + 10, "tokens_reset": NOW + 10, **room}))


@pytest.mark.parametrize(
    ("left", "expected"), [(1.0, 1.0), (0.20, 1.0), (0.125, 0.5), (0.08, 0.2), (0.05, 0.0), (0.049, 0.0), (0.0, 0.0)]
)
def test_between_four_times_keep_and_keep_a_falling_share_of_calls_comes(left: float, expected: float) -> None:
    assert share(limited(tokens_left=left)) == pytest.approx(expected, abs=0.03)
    assert share(limited(requests_left=left)) == pytest.approx(expected, abs=0.03)


def test_the_scarcest_of_all_facts_counts() -> None:
    room = Room(0.9, NOW + 10, 0.8, NOW + 10)
    assert share(candidate("own", room=room, kv_used=0.5, queue=1)) == 1.0
    assert share(candidate("own", room=room, kv_used=0.96, queue=1)) == 0.0
    assert share(candidate("own", room=room, kv_used=0.875, queue=0)) == pytest.approx(0.5, abs=0.03)


def test_a_queue_is_measured_against_queue_full() -> None:
    assert share(candidate("own", queue=8)) == 1.0
    assert share(candidate("own", queue=9)) == pytest.approx(1 / 3, abs=0.03)
    assert share(candidate("own", queue=10)) == 0.0
    assert share(candidate("own", queue=10), Headroom(queue_full=100)) == 1.0


def test_a_limit_is_whole_again_at_its_reset_and_comes_back_over_ten_seconds_if_it_was_used_up() -> None:
    def at(since_reset_s: float, left: float) -> float:
        return share(candidate("cloud", room=Room(tokens_left=left, tokens_reset=NOW - since_reset_s)))

    assert at(0.0, 0.01) == 0.0
    assert at(5.0, 0.01) == pytest.approx(0.5, abs=0.03)
    assert at(10.0, 0.01) == 1.0
    assert at(0.0, 0.30) == 1.0


def test_cooling_keeps_it_out_to_the_end_and_then_it_comes_back_over_ten_seconds() -> None:
    def at(since_s: float, headroom: Headroom | None = None) -> float:
        return share(candidate("cloud", cooling_until=NOW - since_s, cooling_why="429"), headroom)

    assert [at(-2.4), at(-0.001)] == [0.0, 0.0]
    assert at(2.0) == pytest.approx(0.2, abs=0.03)
    assert at(8.0) == pytest.approx(0.8, abs=0.03)
    assert at(10.0) == 1.0
    assert at(0.0, Headroom(return_s=0.0)) == 1.0


def test_what_never_cooled_is_not_coming_back_even_when_the_clock_has_just_begun() -> None:
    assert names(Headroom().apply(call(), [candidate("cloud"), ROOMY], 0.5).kept) == ["cloud", "roomy"]


def test_the_reasons_say_what_is_scarce_with_numbers() -> None:
    def reason(full: Candidate) -> str:
        return Headroom().apply(call(1), [full, ROOMY], NOW).removed[full.name]

    assert reason(limited(tokens_left=0.031)) == "3.1% of tokens left, keeps 5% free"
    assert reason(candidate("own", kv_used=0.97)) == "KV cache 97.0% used, keeps 5% free"
    assert reason(candidate("own", queue=12)) == "12 calls in its queue, keeps 5% free"
    assert reason(candidate("cloud", cooling_until=NOW + 2.4, cooling_why="429")) == "cooling 2.4 s more: 429"
    assert reason(candidate("cloud", cooling_until=NOW - 0.1)) == "cooled until 0.1 s ago, so 1% of calls may come"
    used_up = candidate("cloud", room=Room(tokens_left=0.01, tokens_reset=NOW - 0.1))
    assert reason(used_up) == "1.0% of tokens left until 0.1 s ago, so 1% of calls may come"
    assert reason(limited(requests_left=0.0501)) == "5.0% of requests left, so 0% of calls may come"


def test_when_all_are_nearly_full_the_roomiest_stays() -> None:
    fuller, roomier = candidate("fuller", kv_used=0.99), candidate("roomier", kv_used=0.97)
    selection = Headroom().apply(call(), [fuller, roomier], NOW)
    assert names(selection.kept) == ["roomier"]
    assert selection.note == "nobody has room; most has roomier: KV cache 97.0% used, keeps 5% free"


def test_one_that_cools_stays_out_while_any_other_is_there_however_full() -> None:
    cooling = candidate("cooling", cooling_until=NOW + 0.1)
    full = candidate("full", kv_used=1.0, queue=500)
    assert names(Headroom().apply(call(), [cooling, full], NOW).kept) == ["full"]
    longer = candidate("longer", cooling_until=NOW + 60.0)
    assert names(Headroom().apply(call(), [longer, cooling], NOW).kept) == ["cooling"]


def test_one_that_cooled_until_just_now_goes_before_one_that_is_full() -> None:
    back = candidate("back", cooling_until=NOW - 0.01)
    full = candidate("full", kv_used=1.0)
    assert names(Headroom().apply(call(1), [full, back], NOW).kept) == ["back"]


def test_two_that_drain_do_not_lose_the_same_calls() -> None:
    both = [candidate("one", kv_used=0.875), candidate("two", kv_used=0.875), ROOMY]
    kept = [names(Headroom().apply(call(number), both, NOW).kept) for number in range(CALLS)]
    assert sum("one" in each and "two" in each for each in kept) / CALLS == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"keep": 1.0}, "keep must be a share"),
        ({"keep": -0.1}, "keep must be a share"),
        ({"drain": 0.5}, "drain must be at least 1"),
        ({"return_s": math.inf}, "return_s must be seconds"),
        ({"queue_full": 0}, "at least 1 waiting call"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Headroom(**options)  # type: ignore[arg-type]
