"""What limits count by: rates (GCRA), calls at once, money. Whole numbers, no clock, no I/O; rules.py says whose.

Rule 1. A bucket is a few numbers that say what is left of it; book.py takes of all buckets of a call together.
Rule 2. lua/limits.lua is the same in Redis; tests/limits/test_both_books.py holds one to the other.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

import msgspec

from gateway.types import Frozen

MINUTE_US = 60_000_000
DAY_S = 86_400
NEVER_US = 2**52
"""A wait with no end: nothing but other calls' refunds can help."""

Kind = Literal["rpm", "tpm", "concurrent", "budget"]
Scope = Literal["key", "team", "route", "model"]
"""Whose limit it is; `model` is one key at one route."""


class Rule(Frozen, frozen=True):
    """One limit of one scope. `owner` is unique within the scope; `shown` names it to callers and operators. `limit` is
    requests, tokens or calls, or nano-dollars `per` day, month or total. `name` is what its counter is kept by, which
    stays when the limit is set anew; `group` has those of one key and its team in one place, and those of a route."""

    kind: Kind
    scope: Scope
    owner: str
    shown: str
    limit: int
    per: Literal["", "day", "month", "total"] = ""
    hard: bool = False
    group: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "name", f"{self.scope}:{self.owner}:{self.per or self.kind}")


def rate_us(quantity: int, limit: int) -> int:
    """How much of the minute that many take of a limit a minute. Rounded down, so that a whole limit fits a minute."""
    return (quantity * MINUTE_US // limit or 1) if quantity > 0 else 0


def period(per: str, wall_s: float) -> str:
    """The UTC day or month that a time is in: what a budget is counted by."""
    return (
        "" if per == "total" else datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%d" if per == "day" else "%Y-%m")
    )


def period_began(per: str, wall_s: float) -> float:
    """When it began, in seconds since 1970; 0 for the total."""
    if per == "total":
        return 0.0
    now = datetime.fromtimestamp(wall_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (now if per == "day" else now.replace(day=1)).timestamp()


def period_ends_in_s(per: str, wall_s: float) -> float | None:
    """How long until the next one; None for the total, which has no next."""
    if per == "total":
        return None
    step = timedelta(days=1 if per == "day" else 32)
    after = datetime.fromtimestamp(period_began(per, wall_s), UTC) + step
    return (after if per == "day" else after.replace(day=1)).timestamp() - wall_s


class Bucket(Protocol):
    """One counter. `held` is what open calls hold of it and may give back."""

    limit: int
    held: int

    def wait_us(self, amount: int, now_us: int) -> int:
        """After how long there may be room for it; 0 where there is some."""

    def left(self, now_us: int) -> int:
        """What could be taken at once now."""

    def reset_us(self, now_us: int) -> int:
        """After how long all of it could."""


class Rate:
    """So many a minute, up to a minute's worth at once: the generic cell rate algorithm (ITU-T I.371), one number."""

    __slots__ = ("limit", "tat_us")
    held = 0

    def __init__(self, limit: int) -> None:
        self.limit, self.tat_us = limit, 0

    def correct(self, taken: int, actual: int, mark: int, now_us: int) -> None:
        """The truth instead of what was taken. What time has given back already is not given back again: `mark` is when
        the last of it would be."""
        ends = mark - rate_us(taken, self.limit) + rate_us(actual, self.limit)
        self.tat_us += (ends if ends > now_us else now_us) - (mark if mark > now_us else now_us)

    def wait_us(self, amount: int, now_us: int) -> int:
        return max(0, max(self.tat_us, now_us) + rate_us(amount, self.limit) - MINUTE_US - now_us)

    def left(self, now_us: int) -> int:
        taken_us = self.tat_us - now_us
        if taken_us <= 0:
            return self.limit
        return (MINUTE_US - taken_us) * self.limit // MINUTE_US if taken_us < MINUTE_US else 0

    def reset_us(self, now_us: int) -> int:
        return max(0, self.tat_us - now_us)


class Slots:
    """So many at once."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0

    def wait_us(self, amount: int, now_us: int) -> int:
        return 0 if self.held + amount <= self.limit else NEVER_US

    def left(self, now_us: int) -> int:
        return max(0, self.limit - self.held)

    def reset_us(self, now_us: int) -> int:
        return 0


class Purse:
    """Money of one period: what is spent, and what open calls hold. A soft one only wants to be not empty yet."""

    __slots__ = ("base", "began", "charged", "first", "hard", "held", "known", "limit", "settled", "spent")

    def __init__(self, limit: int, *, hard: bool) -> None:
        self.limit, self.hard, self.spent, self.held = limit, hard, 0, 0
        self.first = self.settled = self.charged = self.base = self.began = 0
        self.known = False

    def remember(self, spent: int) -> None:
        """What was spent before this process began to count; once."""
        if not self.known:
            self.known, self.first = True, spent
            self.spent = max(self.spent, spent)  # what was counted here meanwhile is in it too

    def see(self, settled: int, charged: int, held: int, began: int) -> None:
        """What is counted for all: settled since that counter began, charged for calls of which nobody heard, held."""
        self.hear(settled, charged, began)
        self.spent, self.held = self.settled + self.charged, held

    def hear(self, settled: int, charged: int, began: int) -> None:
        """As `see`. What an earlier counter had, before all was lost, is the least that a later one begins with."""
        if began < self.began:
            self.base = max(self.base, settled + charged)  # an answer that was overtaken
            return
        if 0 < self.began < began:
            self.base = max(self.base, self.settled + self.charged)
        self.settled, self.charged, self.began = settled, charged, began

    def wait_us(self, amount: int, now_us: int) -> int:
        left = self.limit - self.spent - self.held
        return 0 if (amount <= left if self.hard else left > 0) else NEVER_US

    def left(self, now_us: int) -> int:
        return max(0, self.limit - self.spent - self.held)

    def reset_us(self, now_us: int) -> int:
        return 0
