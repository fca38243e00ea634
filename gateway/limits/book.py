"""The counters of one process: reserve all or nothing, settle once. What Redis does for many is in shared_book.py.

Rule 1. A reservation is settled once, by its id; a second time changes nothing.
Rule 2. A call is counted in the period in which it was reserved, however long it takes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.limits.buckets import DAY_S, Bucket, Purse, Rate, Rule, Slots, period


class Ask(NamedTuple):
    """How much of one limit a call wants, in the limit's unit."""

    rule: Rule
    amount: int


class Reading(NamedTuple):
    """What is left of a limit, after how long all of it is, and what open calls hold of it and may give back."""

    left: int
    reset_us: int
    held: int = 0


class Verdict(NamedTuple):
    """Whether all may be taken: `refused` is the ask that has to wait longest, None when there is none. `readings` are
    of every limit after that, in the order of the asks."""

    refused: int | None
    wait_us: int
    readings: Sequence[Reading]


class _Held(NamedTuple):
    bucket: Bucket
    taken: int
    mark: int


class Book:
    """Every counter by its rule, and the reservations that are open. Owns both."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock, self._wall = clock, wall
        self._buckets: dict[str, Rate | Slots] = {}
        self._purses: dict[str, tuple[str, Rule, Purse]] = {}
        self._open: dict[str, list[_Held]] = {}
        self._day = -1
        self._labels: Mapping[str, str] = {}

    def __len__(self) -> int:
        return len(self._open)

    def now_us(self) -> int:
        return int(self._clock() * 1e6)

    def reserve(self, id_: str, asks: Sequence[Ask]) -> Verdict:
        """Takes all that is asked, or nothing."""
        now_us = self.now_us()
        buckets = [self.bucket(ask.rule) for ask in asks]
        waits = [bucket.wait_us(ask.amount, now_us) for bucket, ask in zip(buckets, asks, strict=True)]
        longest = max(waits)
        if longest == 0:
            self._take(id_, buckets, asks, now_us)
        readings = [Reading(bucket.left(now_us), bucket.reset_us(now_us), bucket.held) for bucket in buckets]
        return Verdict(waits.index(longest) if longest else None, longest, readings)

    def _take(self, id_: str, buckets: Sequence[Bucket], asks: Sequence[Ask], now_us: int) -> None:
        self._open[id_] = [
            _Held(bucket, ask.amount, bucket.take(ask.amount, now_us))
            for bucket, ask in zip(buckets, asks, strict=True)
        ]

    def settle(self, id_: str, actuals: Sequence[int]) -> bool:
        """Puts the truth in place of what was reserved; False when that was done already, or nothing was reserved."""
        held = self._open.pop(id_, None)
        if held is None:
            return False
        now_us = self.now_us()
        for (bucket, taken, mark), actual in zip(held, actuals, strict=True):
            bucket.settle(taken, actual, mark, now_us)
        return True

    def bucket(self, rule: Rule) -> Bucket:
        """The counter of a rule, new when it was never asked for; a budget's is that of the current period."""
        if rule.kind == "budget":
            return self.purse(rule)
        found = self._buckets.get(rule.name)
        if found is None:
            found = self._buckets[rule.name] = Slots(rule.limit) if rule.kind == "concurrent" else Rate(rule.limit)
        found.limit = rule.limit
        return found

    def purse(self, rule: Rule) -> Purse:
        label = self.label(rule)
        found = self._purses.get(rule.name)
        if found is None or found[0] != label:
            found = self._purses[rule.name] = label, rule, Purse(rule.limit, hard=rule.hard)
        elif found[1] is not rule:
            found[2].limit, found[2].hard = rule.limit, rule.hard
            self._purses[rule.name] = label, rule, found[2]
        return found[2]

    def purses(self) -> Iterator[tuple[Rule, Purse]]:
        """The budgets of the periods that are now."""
        for label, rule, purse in list(self._purses.values()):
            if label == self.label(rule):
                yield rule, purse

    def label(self, rule: Rule) -> str:
        """The period that a budget is in now."""
        wall = self._wall()
        day = int(wall // DAY_S)
        if day != self._day:
            self._day, self._labels = day, {per: period(per, wall) for per in ("day", "month", "total")}
        return self._labels[rule.per]
