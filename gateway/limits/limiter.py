"""Limits and budgets on a call's way: reserved before its first attempt, settled once after it. Counting is the book's.

Rule 1. A call without limits costs one look. Who has some reserves in all of them or in none.
Rule 2. A hard budget reserves the most that a call can cost and caps it there; a soft one what it will probably cost.
Rule 3. However a call ends its hold is settled: with what it used and cost, with nothing where it got no answer.
Rule 4. What can never pass is the caller's error (400); what may pass later is a 429 that says when.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from gateway.errors import Answerable, ArrieroError
from gateway.limits import room
from gateway.limits.book import Ask, Book, Reading, Verdict
from gateway.limits.bound import Amounts, amounts, cap, capped, expected_tokens
from gateway.limits.buckets import Rule, period_began
from gateway.limits.rules import Rulebook, Rules
from gateway.limits.shared_book import SharedBook, Unleased
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

    __slots__ = ("_book", "_id", "_rules", "headers")

    def __init__(self, book: Book | SharedBook, id_: str, asks: Sequence[Ask], readings: Sequence[Reading]) -> None:
        self._book, self._id = book, id_
        self._rules: Sequence[Rule] = [ask.rule for ask in asks]
        self.headers: Mapping[str, str] = room.headers(asks, readings)

    def settle(self, tokens: int, nano: int) -> None:
        """What the call really used and cost; any number of times, the first one counts."""
        actual = {"rpm": 1, "tpm": tokens, "concurrent": 0, "budget": nano}
        self._book.settle(self._id, [actual[rule.kind] for rule in self._rules])


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

    def rules(self, tenant: Tenant, route: str) -> Rules:
        return self.rulebook.of(tenant, route)

    async def reserve(self, rules: Rules, decision: Decision) -> Hold:
        """Takes what the call will need, and caps it where a budget is hard. Raises Answerable when it may not pass."""
        call, paid = decision.call, any(rule.kind == "budget" for rule in rules)
        wanted = amounts(call, decision.order) if paid else Amounts(expected_tokens(call), 0, 0)
        asks = [Ask(rule, _amount(rule, wanted)) for rule in rules]
        for ask in asks:
            if ask.amount > ask.rule.limit and (ask.rule.kind == "tpm" or ask.rule.hard):
                raise self._refused(ask.rule, room.never(ask))
        await self._remember(rules)
        verdict = self.book.reserve(decision.id, asks) if self.shared is None else await self._shared(decision, asks)
        if verdict.refused is not None:
            raise self._refused(rules[verdict.refused], room.later(asks, verdict, self._times.wall()))
        if any(rule.hard for rule in rules):
            decision.call = capped(decision.call, cap(decision.call, decision.order))
        return Hold(self.book if self.shared is None else self.shared, decision.id, asks, verdict.readings)

    async def _shared(self, decision: Decision, asks: Sequence[Ask]) -> Verdict:
        assert self.shared is not None
        try:
            return await self.shared.reserve(decision.id, asks, decision.call.deadline - self._times.clock())
        except Unleased as error:
            raise self._refused(error.rule, room.unknown(error.rule)) from error

    def _refused(self, rule: Rule, error: Answerable) -> Answerable:
        self._rejections.labels(rule.scope, rule.kind).inc()
        return error

    async def _remember(self, rules: Rules) -> None:
        """What the ledger knows of budgets that this process has not counted yet."""
        for rule in rules:
            if rule.kind != "budget" or self._spent_since is None or self.book.purse(rule).known:
                continue
            purse, began = self.book.purse(rule), period_began(rule.per, self._times.wall())
            try:
                purse.remember(await self._spent_since(rule.scope, rule.owner, began))
            except ArrieroError as error:
                if rule.hard:
                    raise room.unknown(rule) from error


def _amount(rule: Rule, wanted: Amounts) -> int:
    if rule.kind == "tpm":
        return wanted.tokens
    if rule.kind == "budget":
        return wanted.most_nano if rule.hard else wanted.expected_nano
    return 1
