"""The counters of one process: reserve all or nothing, settle once. What Redis does for many is in shared_book.py.

Rule 1. A reservation is settled once, by its id; a second time changes nothing.
Rule 2. A call is counted in the period in which it was reserved, however long it takes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.limits.buckets import DAY_S, MINUTE_US, Bucket, Purse, Rate, Rule, Slots, period
from gateway.limits.terms import Amounts, Terms
from gateway.types import Frozen

TERMS_MOST = 10_000
"""Keys at routes whose counters are at hand; beyond that they are looked up again."""


class Reading(NamedTuple):
    """What is left of a limit, after how long all of it is, and what open calls hold of it and may give back."""

    left: int
    reset_us: int
    held: int = 0


class Counters:
    """What terms count by on that day: in the order of their rules, and kind by kind. `unknown` are purses of which the
    ledger was not asked yet, or did not answer."""

    __slots__ = ("buckets", "day", "hard", "rates", "requests", "slots", "soft", "tokens", "unknown")

    def __init__(self, day: float, terms: Terms, buckets: Sequence[Bucket]) -> None:
        self.day, self.buckets = day, buckets
        kinds = [(rule.kind, bucket) for rule, bucket in zip(terms.rules, buckets, strict=True)]
        self.requests = [bucket for kind, bucket in kinds if kind == "rpm" and isinstance(bucket, Rate)]
        self.tokens = [bucket for kind, bucket in kinds if kind == "tpm" and isinstance(bucket, Rate)]
        self.rates = self.requests + self.tokens
        self.slots = [bucket for bucket in buckets if isinstance(bucket, Slots)]
        purses = [(rule, b) for rule, b in zip(terms.rules, buckets, strict=True) if isinstance(b, Purse)]
        self.hard = [purse for _, purse in purses if purse.hard]
        self.soft = [purse for _, purse in purses if not purse.hard]
        self.unknown = [(rule, purse) for rule, purse in purses if not purse.known]

    def take(self, wanted: Amounts, now_us: int) -> Sequence[int] | None:
        """Counts a call in all of them: when its rates will have given it back. None: one has no room for it.

        One law for each kind, written out: it is most of what limits cost a call."""
        marks, last_us = [], now_us + MINUTE_US
        for rate in self.requests:
            mark = (rate.tat_us if rate.tat_us > now_us else now_us) + (MINUTE_US // rate.limit or 1)
            if mark > last_us:
                return None
            marks.append(mark)
        tokens_us = wanted.tokens * MINUTE_US
        for rate in self.tokens:
            took_us = tokens_us and (tokens_us // rate.limit or 1)
            mark = (rate.tat_us if rate.tat_us > now_us else now_us) + took_us
            if mark > last_us:
                return None
            marks.append(mark)
        for slots in self.slots:
            if slots.held >= slots.limit:
                return None
        for purse in self.hard:
            if purse.limit - purse.spent - purse.held < wanted.most_nano:
                return None
        for purse in self.soft:
            if purse.limit - purse.spent - purse.held <= 0:
                return None
        for rate, mark in zip(self.rates, marks, strict=True):
            rate.tat_us = mark
        for slots in self.slots:
            slots.held += 1
        for purse in self.hard:
            purse.held += wanted.most_nano
        for purse in self.soft:
            purse.held += wanted.expected_nano
        return marks

    def settle(self, wanted: Amounts, marks: Sequence[int], actual: tuple[int, int], now_us: int) -> None:
        """Puts the truth, tokens and nano-dollars, in place of what was taken; a request stays one."""
        tokens, nano = actual
        if tokens != wanted.tokens:
            at = len(self.requests)
            for rate in self.tokens:
                rate.correct(wanted.tokens, tokens, marks[at], now_us)
                at += 1
        for slots in self.slots:
            slots.held -= 1
        for purse in self.hard:
            purse.held -= wanted.most_nano
            purse.spent += nano
        for purse in self.soft:
            purse.held -= wanted.expected_nano
            purse.spent += nano


class Verdict(Frozen, frozen=True):
    """Whether all may be taken: `refused` is the place of the rule that has to wait longest, None when there is none.
    `counters` are as they are after that."""

    refused: int | None
    wait_us: int
    counters: Counters
    now_us: int

    def reading(self, place: int) -> Reading:
        bucket = self.counters.buckets[place]
        return Reading(bucket.left(self.now_us), bucket.reset_us(self.now_us), bucket.held)


class Book:
    """Every counter by its rule, and the reservations that are open. Owns both."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock, self._wall = clock, wall
        self._buckets: dict[str, Rate | Slots] = {}
        self._purses: dict[str, tuple[str, Rule, Purse]] = {}
        self._counters: dict[Terms, Counters] = {}
        self._open: dict[str, tuple[Counters, Amounts, Sequence[int]]] = {}
        self._day = -1.0
        self._labels: Mapping[str, str] = {}

    def __len__(self) -> int:
        return len(self._open)

    def now_us(self) -> int:
        return int(self._clock() * 1e6)

    def reserve(self, id_: str, terms: Terms, wanted: Amounts) -> Verdict:
        """Takes all that is asked, or nothing."""
        now_us, counters = self.now_us(), self.counters(terms)
        marks = counters.take(wanted, now_us)
        if marks is None:
            asked = zip(counters.buckets, terms.reserving(wanted), strict=True)
            waits = [bucket.wait_us(amount, now_us) for bucket, amount in asked]
            return Verdict(waits.index(max(waits)), max(waits), counters, now_us)
        self._open[id_] = counters, wanted, marks
        return Verdict(None, 0, counters, now_us)

    def settle(self, id_: str, tokens: int, nano: int) -> bool:
        """Puts the truth in place of what was reserved; False when that was done already, or nothing was reserved."""
        held = self._open.pop(id_, None)
        if held is None:
            return False
        counters, wanted, marks = held
        counters.settle(wanted, marks, (tokens, nano), self.now_us())
        return True

    def counters(self, terms: Terms) -> Counters:
        """What the terms count by now."""
        found = self._counters.get(terms)
        if found is None or found.day != self.today():
            if len(self._counters) >= TERMS_MOST:
                self._counters.clear()
            found = Counters(self._day, terms, [self.bucket(rule) for rule in terms.rules])
            self._counters[terms] = found
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
