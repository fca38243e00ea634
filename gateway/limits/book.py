"""The counters of one process: reserve all or nothing, settle once. What Redis does for many is in shared_book.py.

Rule 1. A reservation is settled once, by its id; a second time changes nothing.
Rule 2. A call is counted in the period in which it was reserved, however long it takes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.limits.buckets import DAY_S, Bucket, Purse, Rate, Rule, Slots, period
from gateway.limits.terms import Terms

TERMS_MOST = 10_000
"""Keys at routes whose counters are at hand; beyond that they are looked up again."""


class Reading(NamedTuple):
    """What is left of a limit, after how long all of it is, and what open calls hold of it and may give back."""

    left: int
    reset_us: int
    held: int = 0


class Verdict(NamedTuple):
    """Whether all may be taken: `refused` is the place of the rule that has to wait longest, None when there is none.
    `buckets` are the counters of the rules in their order, as they are after that."""

    refused: int | None
    wait_us: int
    buckets: Sequence[Bucket]
    now_us: int

    def reading(self, place: int) -> Reading:
        bucket = self.buckets[place]
        return Reading(bucket.left(self.now_us), bucket.reset_us(self.now_us), bucket.held)


class Counters(NamedTuple):
    """What terms count by on that day, in the order of their rules; `unknown` are purses of which the ledger was not
    asked yet, or did not answer."""

    day: float
    buckets: Sequence[Bucket]
    unknown: list[tuple[Rule, Purse]]


class Book:
    """Every counter by its rule, and the reservations that are open. Owns both."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock, self._wall = clock, wall
        self._buckets: dict[str, Rate | Slots] = {}
        self._purses: dict[str, tuple[str, Rule, Purse]] = {}
        self._counters: dict[Terms, Counters] = {}
        self._open: dict[str, tuple[Sequence[Bucket], Sequence[int], Sequence[int]]] = {}
        self._day = -1.0
        self._labels: Mapping[str, str] = {}

    def __len__(self) -> int:
        return len(self._open)

    def now_us(self) -> int:
        return int(self._clock() * 1e6)

    def reserve(self, id_: str, counters: Counters, amounts: Sequence[int]) -> Verdict:
        """Takes all that is asked, or nothing."""
        now_us, buckets = self.now_us(), counters.buckets
        marks: list[int] = []
        for bucket, amount in zip(buckets, amounts, strict=True):
            mark = bucket.take(amount, now_us)
            if mark is None:
                return self._refused(buckets, amounts, marks, now_us)
            marks.append(mark)
        self._open[id_] = buckets, amounts, marks
        return Verdict(None, 0, buckets, now_us)

    def _refused(self, buckets: Sequence[Bucket], amounts: Sequence[int], marks: Sequence[int], now_us: int) -> Verdict:
        """Gives back what was taken before one had no room; who has to wait longest is the one that refuses."""
        for bucket, amount, mark in zip(buckets, amounts, marks, strict=False):
            bucket.settle(amount, 0, mark, now_us)
        waits = [bucket.wait_us(amount, now_us) for bucket, amount in zip(buckets, amounts, strict=True)]
        longest = max(waits)
        return Verdict(waits.index(longest), longest, buckets, now_us)

    def settle(self, id_: str, actuals: Sequence[int]) -> bool:
        """Puts the truth in place of what was reserved; False when that was done already, or nothing was reserved."""
        held = self._open.pop(id_, None)
        if held is None:
            return False
        now_us = self.now_us()
        for bucket, taken, mark, actual in zip(*held, actuals, strict=True):
            bucket.settle(taken, actual, mark, now_us)
        return True

    def counters(self, terms: Terms) -> Counters:
        """What the terms count by now."""
        found = self._counters.get(terms)
        if found is None or found.day != self.today():
            if len(self._counters) >= TERMS_MOST:
                self._counters.clear()
            buckets = [self.bucket(rule) for rule in terms.rules]
            purses = [(rule, self.purse(rule)) for rule in terms.rules if rule.kind == "budget"]
            unknown = [(rule, purse) for rule, purse in purses if not purse.known]
            found = self._counters[terms] = Counters(self._day, buckets, unknown)
        return found

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

    def today(self) -> float:
        """Days since 1970 in UTC, whole; the labels of periods follow it."""
        wall = self._wall()
        day = wall // DAY_S
        if day != self._day:
            self._labels = {per: period(per, wall) for per in ("day", "month", "total")}
            self._day = day  # last: who reads metrics does so in a thread
        return day

    def label(self, rule: Rule) -> str:
        """The period that a budget is in now."""
        self.today()
        return self._labels[rule.per]
