"""Sticky: the same session to the same place, within bounds."""

import math
from collections import Counter

import pytest

from gateway.types import Call, Candidate, Span
from policies.sticky import Sticky
from tests.policies.cases import call, candidate, names

SESSIONS = 3_000
SIX = [candidate(name) for name in ("own", "groq", "aws-1", "aws-2", "azure", "oci")]


def homes(fleet: list[Candidate], sessions: int = SESSIONS) -> list[str]:
    policy = Sticky()
    return [policy.apply(call(number, session=f"s-{number}"), fleet, 0.0).kept[0].name for number in range(sessions)]


def test_a_session_stays_whatever_the_call_and_the_order_given() -> None:
    orders = {
        tuple(names(Sticky().apply(call(number, session="chat-7"), fleet, 0.0).kept))
        for number in range(20)
        for fleet in (SIX, SIX[::-1])
    }
    assert len(orders) == 1


def test_sessions_spread_evenly_or_by_weight() -> None:
    assert all(count / SESSIONS == pytest.approx(1 / 6, abs=0.025) for count in Counter(homes(SIX)).values())
    uneven = [candidate("large", weight=3.0), candidate("small", weight=1.0)]
    assert Counter(homes(uneven))["large"] / SESSIONS == pytest.approx(0.75, abs=0.025)


def test_when_one_leaves_only_its_sessions_move_and_they_spread_over_the_others() -> None:
    before, after = homes(SIX), homes([each for each in SIX if each.name != "groq"])
    moved = [(was, now) for was, now in zip(before, after, strict=True) if was != now]
    assert all(was == "groq" for was, _ in moved)
    assert len(moved) / SESSIONS <= 1 / 6 + 0.025
    assert all(
        count / len(moved) == pytest.approx(1 / 5, abs=0.06) for count in Counter(now for _, now in moved).values()
    )


def test_when_one_joins_it_takes_only_its_share() -> None:
    before, after = homes(SIX), homes([*SIX, candidate("new")])
    moved = [now for was, now in zip(before, after, strict=True) if was != now]
    assert set(moved) == {"new"}
    assert len(moved) / SESSIONS == pytest.approx(1 / 7, abs=0.025)


def test_sessions_of_two_tenants_are_not_the_same_session() -> None:
    def home(number: int, tenant: str) -> str:
        return Sticky().apply(call(session=f"user-{number}", tenant=tenant), SIX, 0.0).kept[0].name

    same = sum(home(number, "team-a") == home(number, "team-b") for number in range(300))
    assert same / 300 == pytest.approx(1 / 6, abs=0.07)


def test_nobody_holds_more_than_a_quarter_above_the_fair_share() -> None:
    """One session sends all calls and none ends: the load still spreads, 125 % of the average at most."""
    loads = {each.name: 0 for each in SIX}
    for number in range(600):
        fleet = [candidate(name, in_flight=load) for name, load in loads.items()]
        loads[Sticky().apply(call(number, session="one"), fleet, 0.0).kept[0].name] += 1
    assert max(loads.values()) <= math.ceil(1.25 * 600 / 6)
    assert sorted(loads.values())[-2] >= 124, "its second home fills up next, to the same bound"


def test_a_handful_of_calls_never_counts_as_too_much() -> None:
    home = Sticky().apply(call(session="one"), SIX, 0.0).kept[0].name
    fleet = [candidate(each.name, in_flight=3 if each.name == home else 0) for each in SIX]
    assert Sticky().apply(call(session="one"), fleet, 0.0).kept[0].name == home


@pytest.mark.parametrize(("at_home", "elsewhere", "stays"), [(4, 0, False), (5, 22, False), (5, 23, True)])
def test_the_bound_counts_the_call_that_comes(at_home: int, elsewhere: int, stays: bool) -> None:
    """Of 28 calls with the new one 1.25 sixths are 5.83, of 29 they are 6.04: a sixth call fits only then."""
    home = Sticky().apply(call(session="one"), SIX, 0.0).kept[0].name
    other = next(each.name for each in SIX if each.name != home)
    fleet = [candidate(each.name, in_flight={home: at_home, other: elsewhere}.get(each.name, 0)) for each in SIX]
    assert (Sticky().apply(call(session="one"), fleet, 0.0).kept[0].name == home) is stays


def test_the_note_says_when_the_home_was_full() -> None:
    home = Sticky().apply(call(session="one"), SIX, 0.0).kept[0].name
    fleet = [candidate(each.name, in_flight=40 if each.name == home else 0) for each in SIX]
    selection = Sticky().apply(call(session="one"), fleet, 0.0)
    assert selection.kept[-1].name == home
    assert selection.note == f"{home} holds more than its share, 40 calls"


def test_without_a_session_the_order_stays_as_it_came() -> None:
    assert names(Sticky().apply(call(), SIX, 0.0).kept) == names(SIX)
    assert names(Sticky(by="prefix").apply(call(session="one"), SIX, 0.0).kept) == names(SIX)


def with_messages(text: str, before: str = "") -> Call:
    body = f'{{{before}"messages": {text}}}'.encode()
    start = body.index(b"[")
    return call(body=body, fields={"messages": Span(start - 12, start, len(body) - 1)})


def test_by_prefix_the_beginning_of_the_messages_decides_and_not_what_stands_around_them() -> None:
    system = '[{"role": "system", "content": "' + "You are a patient teacher of arithmetic. " * 20 + '"}'

    def home(asked: Call) -> str:
        return Sticky(by="prefix").apply(asked, SIX, 0.0).kept[0].name

    first = home(with_messages(system + ', {"role": "user", "content": "2+2"}]'))
    assert home(with_messages(system + ', {"role": "user", "content": "3+3"}]', '"temperature": 1, ')) == first
    others = {home(with_messages(f'[{{"role": "system", "content": "Agent {number}"}}]')) for number in range(50)}
    assert len(others) == 6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"prefix_bytes": 0}, "at least 1"),
        ({"load_factor": 0.9}, "at least 1"),
        ({"load_factor": math.nan}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Sticky(**options)  # type: ignore[arg-type]
