"""The counters of many replicas, in Redis: one function call reserves, another settles. What to do without it, too.

Rule 1. A call waits for Redis once, before its first attempt, and no longer than the timeout; never after it.
Rule 2. Whatever is not known to be settled is settled later, by its id; Redis counts it once.
Rule 3. Without Redis this process counts for itself from what it last saw: soft budgets and rates go on; a hard budget
        only within its lease, a small share of what was left when Redis was last heard of.
Rule 4. What Redis forgot is put back from what is known here: sums that only grow, and the reservations still open.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from gateway.errors import ArrieroError, ConfigError
from gateway.limits.book import TERMS_MOST, Book, Verdict
from gateway.limits.buckets import Purse, Rate, Rule, Slots
from gateway.limits.eviction import Eviction
from gateway.limits.outage import Outage
from gateway.limits.shares import KEEP_S, Life, Share, name, numbers, reserving, settling, shares
from gateway.limits.store import BATCH, LIBRARY, Command, Store, StoreError
from gateway.limits.terms import Amounts, Terms

GRACE_S = 60.0
"""How long after a call's deadline Redis waits to hear how it ended."""
LEASE_SHARE, LEASE_S = 20, 10.0
"""A twentieth of what was left of a hard budget, for so long after Redis was last heard of."""
PROBE_S, PROBE_MOST_S = 0.1, 1.0
UNSETTLED_MOST = 100_000
LATE_S = 0.01
"""A timer that comes so late says that this process was busy, not that Redis was."""


class Unleased(ArrieroError):
    """A hard budget of which nothing may be spent now, because nobody knows what is left."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.shown)
        self.rule = rule


class Open(NamedTuple):
    """A reservation that this process made."""

    terms: Terms
    wanted: Amounts
    shares: Sequence[Share]
    until: float


class Unsettled(NamedTuple):
    """What Redis is not known to have settled yet; `sent` is when it was first told."""

    id: str
    shares: Sequence[Share]
    actuals: Sequence[int]
    sent: float | None = None


class SharedBook:
    """Counts in Redis. Owns what is open and unsettled; `book` is what was last seen there, and counts without it."""

    def __init__(self, store: Store, book: Book, outage: Outage, clock: Callable[[], float], timeout_s: float) -> None:
        self.store, self._book, self._outage, self._clock = store, book, outage, clock
        self._timeout_s, self._split = timeout_s, store.split
        self.eviction = Eviction(store, outage.log)
        self._shares: dict[Terms, tuple[float, Sequence[Share]]] = {}
        self._open: dict[str, Open] = {}
        self._unsettled: dict[str, Unsettled] = {}
        self._asked: set[asyncio.Future[Any]] = set()
        self._heard = -LEASE_S
        self._leases: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        self._recovery: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._restoring: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def away(self) -> bool:
        return self._outage.away

    @property
    def restoring(self) -> int:
        """Open calls that are being put back."""
        return len(self._restoring)

    @property
    def waiting(self) -> int:
        """Settlements that Redis has not confirmed."""
        return len(self._unsettled)

    async def reserve(self, id_: str, terms: Terms, wanted: Amounts, life_s: float) -> Verdict:
        """Takes all that is asked, or nothing. Raises Unleased."""
        opened = Open(terms, wanted, self._shares_of(terms), self._clock() + life_s + GRACE_S)
        if self._outage.away:
            verdict = self._without(id_, opened)
            if verdict.refused is None:
                self._open[id_] = opened
            return verdict
        try:
            verdict = await self._asked_for(id_, opened)
        except BaseException:
            self._drop(id_, opened)
            raise
        if verdict.refused is None:
            self._open[id_] = opened  # not before: what is put back after a loss must have been admitted
        return verdict

    async def _asked_for(self, id_: str, opened: Open) -> Verdict:
        began = self._clock()
        try:
            replies = await self._replies(id_, opened)
        except StoreError:
            verdict, sure = self._without(id_, opened), False
        else:
            self._heard = began
            verdict, sure = self._read(opened, replies), len(replies) == 1
        if verdict.refused is not None and not sure:
            self._drop(id_, opened)
        return verdict

    async def _replies(self, id_: str, opened: Open) -> Sequence[Sequence[int]]:
        """Of each share until one refuses: who is refused by its key takes nothing of its route, not for a moment."""
        found = []
        for share in opened.shares:
            found.append(numbers(await self._ask(self._reserving(id_, opened, share))))
            if found[-1][1]:
                break
        return found

    def _drop(self, id_: str, opened: Open) -> None:
        """Gives back whatever may have been reserved of a call that does not take place."""
        self._tell(Unsettled(id_, opened.shares, [0] * len(opened.terms.rules)))

    def settle(self, id_: str, tokens: int, nano: int) -> bool:
        """Never waits. False when that was done already."""
        opened = self._open.pop(id_, None)
        if opened is None:
            return False
        self._book.settle(id_, tokens, nano)
        self._tell(Unsettled(id_, opened.shares, opened.terms.settling(tokens, nano)))
        return True

    def _without(self, id_: str, opened: Open) -> Verdict:
        """What this process may admit alone."""
        fresh = self._clock() < self._heard + LEASE_S
        hard, amount = [rule for rule in opened.terms.rules if rule.hard], opened.wanted.most_nano
        for rule in hard:
            if not (fresh and amount <= self._leases.get(name(rule, self._book), 0)):
                raise Unleased(rule)
        verdict = self._book.reserve(id_, opened.terms, opened.wanted)
        if verdict.refused is None:
            for rule in hard:
                self._leases[name(rule, self._book)] -= amount
        return verdict

    def _shares_of(self, terms: Terms) -> Sequence[Share]:
        """Made once a day: the names of counters say of which day they are."""
        day, found = self._shares.get(terms, (-1.0, ()))
        if day != self._book.today():
            if len(self._shares) >= TERMS_MOST:
                self._shares.clear()
            found = shares(terms.rules, self._book, split=self._split)
            self._shares[terms] = self._book.today(), found
        return found

    def _reserving(self, id_: str, opened: Open, share: Share, *, force: bool = False) -> Command:
        return reserving(
            id_, share, opened.terms.reserving(opened.wanted), Life(opened.until - self._clock(), force), self._book
        )

    def _read(self, opened: Open, replies: Sequence[Sequence[int]]) -> Verdict:
        """The replies to a reservation; what they say is seen by the book of this process too."""
        refused, longest, lost = None, 0, False
        for share, (epoch, worst, waits, *found) in zip(opened.shares, replies, strict=False):
            lost |= self._epochs.setdefault(share.keys[0], epoch) != epoch
            self._epochs[share.keys[0]] = epoch
            if worst and waits > longest:
                refused, longest = share.places[worst - 1], waits
            for at, (rule, key) in enumerate(zip(share.rules, share.keys[2:], strict=True)):
                if key.endswith(name(rule, self._book)):  # of the period that is now: a day may have begun meanwhile
                    lost |= self._see(rule, found[4 * at : 4 * at + 4])
        if lost:
            self._restore()
        return Verdict(refused, longest, self._book.counters(opened.terms), self._book.now_us())

    def _see(self, rule: Rule, found: Sequence[int]) -> bool:
        """Takes over what Redis counted; True for a budget that is counted anew since it was last seen."""
        bucket = self._book.bucket(rule)
        if isinstance(bucket, Rate):
            bucket.tat_us = self._book.now_us() + found[0]
        elif isinstance(bucket, Slots):
            bucket.held = found[0]
        elif isinstance(bucket, Purse):
            before = bucket.began
            bucket.see(*found)
            if rule.hard:
                self._leases[name(rule, self._book)] = bucket.left(0) // LEASE_SHARE
            return before not in (0, bucket.began)
        return False

    def _ask(self, command: Command) -> "asyncio.Future[Any]":
        """The reply, or a StoreError when it takes too long."""
        future = self.store.send(command)
        self._asked.add(future)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._timeout_s, self._late, future, loop.time() + self._timeout_s)
        future.add_done_callback(lambda done: self._answered(done, timer))
        return future

    def _late(self, future: "asyncio.Future[Any]", due: float | None) -> None:
        loop = asyncio.get_running_loop()
        if due is not None and loop.time() > due + LATE_S:
            loop.call_later(self._timeout_s, self._late, future, None)
        elif not future.done():
            future.set_exception(StoreError(f"no answer within {self._timeout_s * 1000:.0f} ms"))

    def _answered(self, future: "asyncio.Future[Any]", timer: asyncio.TimerHandle | None = None) -> None:
        if timer is not None:
            timer.cancel()
        self._asked.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._outage.succeeded()
        elif self._outage.failed(str(error)):
            self._begin_outage(str(error))

    def _begin_outage(self, why: str) -> None:
        """Nobody who waits waits longer."""
        for future in list(self._asked):
            if not future.done():
                future.set_exception(StoreError(why))
        self._recover_soon()

    def _recover_soon(self) -> None:
        if self._recovery is None:
            self._recovery = asyncio.create_task(self._recover())

    def _tell(self, of: Unsettled) -> None:
        """Settles in Redis, now or when it is back."""
        if len(self._unsettled) >= UNSETTLED_MOST:
            del self._unsettled[next(iter(self._unsettled))]
        self._unsettled[of.id] = of
        if not self._outage.away:
            self._settle_now(of).add_done_callback(self._settled)

    async def _confirmed(self, of: Unsettled, replies: "Sequence[asyncio.Future[Any]]") -> None:
        for share, reply in zip(of.shares, replies, strict=True):
            sums = numbers(await reply)
            for at, (rule, key) in enumerate(zip(share.rules, share.keys[2:], strict=True)):
                if rule.kind == "budget" and key.endswith(name(rule, self._book)):  # of the period that is now
                    self._book.purse(rule).hear(*sums[3 * at : 3 * at + 3])
        self._unsettled.pop(of.id, None)

    def _settle_now(self, of: Unsettled) -> "asyncio.Future[None]":
        """Sends at once; the future is done when Redis has confirmed it, or fails with a StoreError."""
        if of.sent is None:
            of = self._unsettled[of.id] = of._replace(sent=self._clock())
        replies = [self.store.send(settling(of.id, share, of.actuals, self._book)) for share in of.shares]
        return asyncio.ensure_future(self._confirmed(of, replies))

    def _settled(self, told: "asyncio.Future[Any]") -> None:
        self._answered(told)
        if not told.cancelled() and told.exception() is not None:
            self._recover_soon()

    def _restore(self) -> None:
        """Redis lost its counters: what is open here is reserved there again, whatever is left."""
        for id_, opened in list(self._open.items()):
            for share in opened.shares:
                future = self.store.send(self._reserving(id_, opened, share, force=True))
                self._restoring.add(future)
                future.add_done_callback(self._restored)

    def _restored(self, future: "asyncio.Future[Any]") -> None:
        self._restoring.discard(future)
        self._answered(future)

    async def _recover(self) -> None:
        """Tries again and again, says all that was not said, and closes the circuit."""
        pause_s, settled = PROBE_S, 0
        while True:
            await asyncio.sleep(pause_s * (0.5 + random.random() / 2))
            pause_s = min(pause_s * 2, PROBE_MOST_S)
            try:
                await self.store.send(Command(f"{LIBRARY}_probe", ["arriero:probe"], []))
                settled += await self._catch_up()
            except StoreError:
                continue
            self._recovery = None
            if self._outage.away:
                self._outage.over(settled=settled)
            return

    async def _catch_up(self) -> int:
        """Settles what is unsettled and reserves what is open, the last of it without waiting: Redis does it before
        whatever is sent later. Raises StoreError."""
        count = len(self._unsettled)
        while len(self._unsettled) > BATCH:
            await asyncio.gather(*[self._settle_now(of) for of in self._timely(list(self._unsettled.values()))])
        for of in self._timely(list(self._unsettled.values())):
            self._settle_now(of).add_done_callback(self._settled)
        self._restore()
        return count

    def _timely(self, waiting: Iterable[Unsettled]) -> Iterable[Unsettled]:
        """Those that cannot have been settled so long ago that Redis forgot it."""
        for of in waiting:
            if of.sent is None or self._clock() - of.sent < KEEP_S - GRACE_S:
                yield of
            else:
                self._unsettled.pop(of.id, None)

    async def start(self) -> None:
        """Loads the functions, so that no call waits for that; without Redis the gateway starts as well. Raises
        ConfigError for a Redis that may forget what it counts."""
        try:
            await self.store.send(Command(f"{LIBRARY}_probe", ["arriero:probe"], []))
        except StoreError as error:
            while not self._outage.away:
                self._outage.failed(str(error))
            self._begin_outage(str(error))
        else:
            await self._refuse_forgetting()
        self._watching = asyncio.create_task(self.eviction.watch())

    async def _refuse_forgetting(self) -> None:
        try:
            await self.eviction.begin()
        except ConfigError:
            await self.store.aclose()
            raise

    async def aclose(self) -> None:
        """Says what is not said yet, where there is somebody to hear it."""
        for task in (self._recovery, self._watching):
            if task is not None:
                task.cancel()
        await self.store.aclose()
