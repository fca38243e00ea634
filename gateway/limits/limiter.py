"""Limits and budgets on a call's way: reserved before its first attempt, settled once after it. Counting is the book's.

Rule 1. A call without limits costs one look. Who has some reserves in all of them or in none.
Rule 2. A hard budget reserves the most that a call can cost and caps it there; a soft one what it will probably cost.
Rule 3. However a call ends its hold is settled: with what it used and cost, with nothing where it got no answer.
Rule 4. What can never pass is the caller's error (400); what may pass later is a 429 that says when.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from gateway.errors import Answerable, ArrieroError
from gateway.limits import room
from gateway.limits.book import Book, Counters, Verdict
from gateway.limits.bound import amounts, capped
from gateway.limits.buckets import Rule, period_began
from gateway.limits.rules import Rulebook
from gateway.limits.shared_book import SharedBook, Unleased
from gateway.limits.terms import Amounts, Terms
from gateway.router import Decision
from gateway.tally import Counter
from gateway.types import Tenant

SpentSince = Callable[[str, str, float], Awaitable[int]]
"""What the ledger knows: nano-dollars spent by the "key", "team" or "route" of that name since a time."""


class Times(NamedTuple):
    """The monotonic clock and the time of day."""

    clock: Callable[[], float]
    wall: Callable[[], float]


class Hold:
    """What one call has reserved. `headers` tell its caller what is left."""

    __slots__ = ("_book", "_id", "headers", "settled")

    def __init__(self, book: Book | SharedBook, id_: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._book, self._id, self.headers = book, id_, headers
        self.settled = False

    def settle(self, tokens: int, nano: int) -> None:
        """What the call really used and cost; any number of times, the first one counts."""
        if not self.settled:
            self.settled = True
            self._book.settle(self._id, tokens, nano)


class Limiter:
    """Every limit of one gateway. Owns the counters."""

    def __init__(
        self,
        rulebook: Rulebook,
        book: Book,
        rejections: Counter,
        times: Times,
        shared: SharedBook | None = None,
        spent_since: SpentSince | None = None,
    ) -> None:
        self.rulebook, self.book, self.shared = rulebook, book, shared
        self._rejections, self._times, self._spent_since = rejections, times, spent_since

    def rules(self, tenant: Tenant, route: str) -> Terms | None:
        return self.rulebook.of(tenant, route)

    async def reserve(self, terms: Terms, decision: Decision) -> Hold:
        """Takes what the call will need, and caps it where a budget is hard. Raises Answerable when it may not pass."""
        wanted = amounts(decision.call, decision.order, terms)
        if wanted.tokens > terms.largest_tokens or wanted.most_nano > terms.largest_nano:
            raise self._never(terms, wanted)
        counters = self.book.counters(terms)
        if counters.unknown and self._spent_since is not None:
            await self._remember(counters, self._spent_since)
        book: Book | SharedBook = self.book
        if self.shared is None:
            verdict = self.book.reserve(decision.id, terms, wanted)
        else:
            book, verdict = self.shared, await self._shared(self.shared, terms, decision, wanted)
        if verdict.refused is not None:
            raise self._refused(terms.rules[verdict.refused], room.later(terms, wanted, verdict, self._times.wall()))
        if terms.hard:
            decision.call = capped(decision.call, wanted.cap)
        return Hold(book, decision.id, room.headers(verdict))

    async def _shared(self, shared: SharedBook, terms: Terms, decision: Decision, wanted: Amounts) -> Verdict:
        life_s = decision.call.deadline - self._times.clock()
        try:
            return await shared.reserve(decision.id, terms, wanted, life_s)
        except Unleased as error:
            raise self._refused(error.rule, room.unknown(error.rule)) from error

    def _never(self, terms: Terms, wanted: Amounts) -> Answerable:
        """The first rule that such a call can never pass."""
        for rule, amount in zip(terms.rules, terms.reserving(wanted), strict=True):
            if amount > rule.limit and (rule.kind == "tpm" or rule.hard):
                return self._refused(rule, room.never(rule, amount))
        raise AssertionError("no rule is in the way")

    def _refused(self, rule: Rule, error: Answerable) -> Answerable:
        self._rejections.labels(rule.scope, rule.kind).inc()
        return error

    async def _remember(self, counters: Counters, spent_since: SpentSince) -> None:
        """What the ledger knows of budgets that this process has not counted yet."""
        for rule, purse in list(counters.unknown):
            if not purse.known:
                try:
                    began = period_began(rule.per, self._times.wall())
                    purse.remember(await spent_since(rule.scope, rule.owner, began))
                except ArrieroError as error:
                    if rule.hard:
                        raise room.unknown(rule) from error
        counters.unknown[:] = [one for one in counters.unknown if not one[1].known]
