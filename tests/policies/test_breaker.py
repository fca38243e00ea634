"""Breaker: circuits that open, wait, let one call try, and never shut out the last."""

import pytest

from gateway.types import Candidate
from policies.breaker import Breaker
from tests.policies.cases import NOW, call, candidate, names
from tests.policies.simulation import Cloud, World, steadily

FINE = candidate("fine")


def failing(failures: int, seconds_ago: float, **said: object) -> Candidate:
    return candidate("failing", failures=failures, failed_at=NOW - seconds_ago, **said)


def is_out(broken: Candidate, breaker: Breaker | None = None) -> bool:
    return "failing" not in names((breaker or Breaker()).apply(call(), [broken, FINE], NOW).kept)


def test_five_failures_in_a_row_open_the_circuit_and_four_do_not() -> None:
    assert not is_out(failing(4, 0.1))
    assert is_out(failing(5, 0.1))


def test_a_success_rate_under_80_percent_of_at_least_five_recent_calls_opens_it() -> None:
    assert is_out(failing(1, 0.1, error_rate=0.25, recent=20.0))
    assert not is_out(failing(1, 0.1, error_rate=0.20, recent=20.0)), "80 % is enough"
    assert not is_out(failing(1, 0.1, error_rate=0.75, recent=4.9)), "four calls are no rate"


def test_it_stays_open_for_5_seconds_half_of_them_by_chance_then_lets_one_call_try() -> None:
    assert is_out(failing(5, 2.49))
    assert not is_out(failing(5, 5.0))
    assert is_out(failing(5, 5.0, in_flight=1)), "the one call that tries is under way"


def test_each_further_failure_doubles_the_wait_up_to_300_seconds() -> None:
    for failures, wait_s in ((6, 10.0), (7, 20.0), (10, 160.0), (11, 300.0), (40, 300.0), (2**70, 300.0)):
        assert is_out(failing(failures, wait_s / 2 - 0.01)), failures
        assert not is_out(failing(failures, wait_s)), failures


def test_calls_that_broke_together_are_not_taken_for_many_trials() -> None:
    """Twenty calls in flight reset in the same moment: a wait of 5 s, not of 300."""
    assert is_out(failing(20, 5.0))
    assert not is_out(failing(20, 5.0, failing_since=NOW - 5.1))


def test_the_chance_in_the_wait_is_the_same_for_every_call_and_differs_between_failures() -> None:
    def wait_s(failed_at: float) -> int:
        broken = candidate("failing", failures=5, failed_at=failed_at)
        return next(
            tenths
            for tenths in range(100)
            if "failing" in names(Breaker().apply(call(tenths), [broken, FINE], failed_at + tenths / 10).kept)
        )

    waits = {wait_s(NOW + number) for number in range(40)}
    assert len(waits) > 10
    assert min(waits) >= 25
    assert max(waits) <= 50


def test_while_the_cloud_asked_to_be_left_alone_the_circuit_is_open() -> None:
    cooling = candidate("failing", cooling_until=NOW + 2.4, cooling_why="429")
    assert Breaker().apply(call(), [cooling, FINE], NOW).removed == {"failing": "cooling 2.4 s more: 429"}


def test_the_reasons_say_how_long_and_why() -> None:
    def reason(broken: Candidate) -> str:
        return Breaker().apply(call(), [broken, FINE], NOW).removed["failing"]

    assert reason(failing(7, 1.0)).endswith("s more: 7 failures in a row")
    assert reason(failing(7, 1.0)).startswith("open 1")
    assert reason(failing(1, 1.0, error_rate=0.38, recent=12.3)).endswith("62% of 12 recent calls succeeded")
    assert reason(failing(5, 6.0, in_flight=2)) == "half-open, one call is trying it: 5 failures in a row"


def test_the_last_candidate_is_never_ejected_and_the_one_that_recovers_first_stays() -> None:
    later = candidate("later", failures=9, failed_at=NOW)
    sooner = candidate("sooner", failures=5, failed_at=NOW - 1.0)
    coolest = candidate("coolest", cooling_until=NOW + 100.0, cooling_why="auth")
    selection = Breaker().apply(call(), [later, sooner, coolest], NOW)
    assert names(selection.kept) == ["sooner"]
    assert set(selection.removed) == {"later", "coolest"}
    assert selection.note.startswith("every circuit is open; sooner recovers first: open ")


def test_a_dead_cloud_costs_one_try_at_a_time_and_is_back_after_its_recovery() -> None:
    """60 s of refusals at 20 calls a second, then all is well."""
    begun = 1000.0
    dead = Cloud("dead", steadily(0.3), lambda now: begun <= now < begun + 60.0)
    world = World([dead, Cloud("spare", steadily(0.3))], Breaker(), rate_per_s=20.0)
    during = [tried for tried in world.run(1200) if tried.name == "dead"]
    assert len(during) <= 5 + 6, "five failures open it; trials after about 5, 5, 10, 20 and 20 s"
    after = world.run(20 * 60)
    back = next(tried.at for tried in after if tried.name == "dead" and tried.ok)
    assert back - (begun + 60.0) <= 60.0, "no longer than it was away"
    assert sum(tried.name == "dead" for tried in after[-200:]) == 200


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"consecutive": 0}, "at least 1 failure"),
        ({"success": 80}, "share from 0 to 1"),
        ({"min_recent": 0}, "number of attempts above 0"),
        ({"open_s": 10, "longest_open_s": 5}, "at most longest_open_s"),
        ({"open_s": 0}, "above 0 seconds"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Breaker(**options)  # type: ignore[arg-type]
