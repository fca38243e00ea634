"""Budget: a cap on what is spent at an account or a deployment."""

from decimal import Decimal
from typing import Any

import pytest

from gateway.config import loading
from gateway.errors import ConfigError
from gateway.types import NANO_PER_USD, Spent
from policies.budget import Budget
from tests.policies.cases import call, candidate, names


def budget(**options: Any) -> Budget:
    found = loading.policy({"budget": options}, "policies[0]")[1]
    assert isinstance(found, Budget)
    return found


def test_an_account_is_out_from_the_nano_dollar_that_reaches_its_cap() -> None:
    cap = 50 * NANO_PER_USD
    almost = candidate("groq-70b", account="groq", spent_account=Spent(day=cap - 1))
    reached = candidate("groq-8b", account="groq", spent_account=Spent(day=cap))
    other = candidate("own", spent_account=Spent(day=10 * cap))
    selection = budget(account="groq", usd=50, per="day").apply(call(), [almost, reached, other], 0.0)
    assert names(selection.kept) == ["groq-70b", "own"]
    assert selection.removed == {"groq-8b": "spent 50.00 of 50.00 USD this UTC day"}


def test_the_period_says_which_spend_counts() -> None:
    spent = Spent(day=1 * NANO_PER_USD, month=20 * NANO_PER_USD, total=300 * NANO_PER_USD)
    groq = candidate("groq", spent_account=spent)

    def is_out(usd: int, per: str) -> bool:
        return not budget(account="groq", usd=usd, per=per).apply(call(), [groq], 0.0).kept

    assert [is_out(1, "day"), is_out(2, "day")] == [True, False]
    assert [is_out(20, "month"), is_out(21, "month")] == [True, False]
    assert [is_out(300, "total"), is_out(301, "total")] == [True, False]


def test_a_deployment_may_have_a_cap_of_its_own() -> None:
    large = candidate("large", account="aws", spent=Spent(month=5 * NANO_PER_USD))
    small = candidate("small", account="aws", spent_account=Spent(month=99 * NANO_PER_USD))
    selection = budget(deployment="large", usd=5, per="month").apply(call(), [large, small], 0.0)
    assert names(selection.kept) == ["small"]


def test_the_amount_is_taken_as_it_is_written_to_the_nano_dollar() -> None:
    cap = budget(account="groq", usd=0.1, per="day")
    assert cap.usd == Decimal("0.1"), "not 0.1000000000000000055"
    assert cap.apply(call(), [candidate("groq", spent_account=Spent(day=99_999_999))], 0.0).kept
    reached = cap.apply(call(), [candidate("groq", spent_account=Spent(day=100_000_001))], 0.0)
    assert reached.removed == {"groq": "spent 0.100000001 of 0.10 USD this UTC day"}


def test_a_cap_may_leave_nobody() -> None:
    broke = candidate("groq", spent_account=Spent(total=1))
    assert not budget(account="groq", usd=0, per="total").apply(call(), [broke], 0.0).kept


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"usd": 5, "per": "day"}, "write account or deployment"),
        ({"usd": 5, "per": "day", "account": "a", "deployment": "d"}, "write account or deployment"),
        ({"usd": -1, "per": "day", "account": "a"}, "amount of US dollars"),
        ({"usd": "nan", "per": "day", "account": "a"}, "amount of US dollars"),
        ({"usd": 10**13, "per": "day", "account": "a"}, "amount of US dollars"),
        ({"usd": "0.0000000001", "per": "day", "account": "a"}, "below one nano-dollar"),
        ({"usd": 5, "per": "week", "account": "a"}, "week"),
        ({"usd": 5, "account": "a"}, "per"),
    ],
)
def test_impossible_budgets_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        budget(**options)
