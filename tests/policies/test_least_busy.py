"""Least busy: two drawn at random, the less busy one first."""

from collections import Counter

import pytest

from policies.least_busy import LeastBusy
from tests.policies.cases import call, candidate, names


def test_the_busiest_is_never_first_and_the_others_by_how_often_they_win_a_pair() -> None:
    fleet = [candidate("busy", in_flight=9), candidate("some", in_flight=5), candidate("idle")]
    firsts = Counter(names(LeastBusy().apply(call(number), fleet, 0.0).kept)[0] for number in range(6_000))
    assert firsts["busy"] == 0
    assert firsts["idle"] / 6_000 == pytest.approx(2 / 3, abs=0.02)


def test_the_servers_own_queue_counts_as_calls_in_flight() -> None:
    fleet = [candidate("ours", in_flight=5), candidate("theirs", in_flight=1, queue=5)]
    assert {names(LeastBusy().apply(call(number), fleet, 0.0).kept)[0] for number in range(50)} == {"ours"}


def test_equals_share_evenly() -> None:
    fleet = [candidate(name) for name in ("a", "b", "c", "d")]
    firsts = Counter(names(LeastBusy().apply(call(number), fleet, 0.0).kept)[0] for number in range(8_000))
    assert all(count / 8_000 == pytest.approx(1 / 4, abs=0.02) for count in firsts.values())


def test_who_was_not_drawn_follows_less_busy_first() -> None:
    fleet = [candidate(name, in_flight=load) for name, load in (("a", 4), ("b", 3), ("c", 2), ("d", 1))]
    for number in range(50):
        first, second, *rest = names(LeastBusy().apply(call(number), fleet, 0.0).kept)
        assert first > second, "of the two drawn the less busy leads"
        assert rest == sorted(rest, reverse=True)


def test_two_choices_keep_ten_servers_nearly_level() -> None:
    """1,000 calls that all stay: 100 each; with one choice the worst of ten would hold about 115."""
    loads = dict.fromkeys("abcdefghij", 0)
    for number in range(1_000):
        fleet = [candidate(name, in_flight=load) for name, load in loads.items()]
        loads[LeastBusy().apply(call(number), fleet, 0.0).kept[0].name] += 1
    assert max(loads.values()) <= 104
    assert min(loads.values()) >= 96
