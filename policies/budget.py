"""A cap on what is spent at one account or one deployment. Budgets of keys are limits, not policies."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import ClassVar, Literal

from gateway.types import NANO_PER_USD, Call, Candidate, Frozen, Selection
from policies._reasons import short, without

_SINCE = {"day": "this UTC day", "month": "this UTC month", "total": "since the start"}
_MOST_USD = Decimal(10) ** 12


class Budget(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Removes the deployments of an account, or one deployment, once its spend has reached the cap.

    `usd` is exact to the nano-dollar. `per` is the UTC day, the UTC month, or `total`: since the process began. Calls
    in flight are not in the spend yet, so the cap may be passed by what they cost. A cap is a cap: this policy may
    remove everybody. For several caps write it several times.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "can_now"
    order_independent: ClassVar[bool] = True
    EXAMPLE: ClassVar[Mapping[str, object]] = {"account": "groq", "usd": 50, "per": "day"}

    usd: Decimal
    per: Literal["day", "month", "total"]
    account: str | None = None
    deployment: str | None = None

    def __post_init__(self) -> None:
        if (self.account is None) == (self.deployment is None):
            raise ValueError("a budget is for one account or for one deployment: write account or deployment")
        if not self.usd.is_finite() or not 0 <= self.usd <= _MOST_USD:
            raise ValueError(f"usd must be an amount of US dollars from 0 to {_MOST_USD:,}, not {self.usd}")
        if self.usd * NANO_PER_USD % 1:
            raise ValueError(f"usd has digits below one nano-dollar: {self.usd}")

    @property
    def named(self) -> Mapping[str, Sequence[str]]:
        """What must be in the config for this cap to be about something."""
        return {"account": [self.account]} if self.account is not None else {"deployment": [self.deployment or ""]}

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        cap = int(self.usd * NANO_PER_USD)
        removed: dict[str, str] = {}
        for candidate in candidates:
            spent = self._spent(candidate)
            if spent is not None and spent >= cap:
                removed[candidate.name] = short(f"spent {_text(spent)} of {_text(cap)} USD {_SINCE[self.per]}")
        return without(candidates, removed)

    def _spent(self, candidate: Candidate) -> int | None:
        """Nano-dollars under this cap; None for a candidate that the cap is not about."""
        if self.account is not None:
            spent = candidate.spent_account if candidate.deployment.account == self.account else None
        else:
            spent = candidate.spent if candidate.name == self.deployment else None
        if spent is None:
            return None
        return spent.day if self.per == "day" else spent.month if self.per == "month" else spent.total


def _text(nano: int) -> str:
    """US dollars with two decimals, and as many more as it takes to be exact."""
    whole, rest = divmod(nano, NANO_PER_USD)
    return f"{whole:,}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"
