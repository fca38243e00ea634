"""One model, two books: what a process counts for itself and what Redis counts are the same, and are the truth.

The truths of all calls are the counters, always: whatever is settled, told twice, forgotten, or told too late."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.limits.book import Book, Verdict
from gateway.limits.buckets import MINUTE_US, Rule, rate_us
from gateway.limits.outage import Outage
from gateway.limits.redis_url import place
from gateway.limits.shared_book import SharedBook
from gateway.limits.store import Store
from gateway.limits.terms import Amounts, Terms
from gateway.limits.wires import wire
from gateway.log import Log
from gateway.tally import Count
from tests.harness import Clock, eventually
from tests.redis_server import RedisServer, redis_server

HARD = Rule("budget", "key", "k", "k", 1000, "total", True, "t:k")
SOFT = Rule("budget", "team", "t", "t", 1000, "total", False, "t:k")
PLACES = Rule("concurrent", "key", "k", "k", 5, group="t:k")
TERMS = Terms((HARD, SOFT, PLACES))
amounts = strategies.integers(0, 400)


class Loop:
    """An event loop in a thread of its own, for tests that cannot be async."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    found = Loop()
    yield found
    found.close()


@pytest.fixture(scope="module")
def redis(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    folder: Path = tmp_path_factory.mktemp("redis")
    with contextlib.ExitStack() as stack:
        server = redis_server(folder)
        found = loop.run(server.__aenter__())
        stack.callback(lambda: loop.run(server.__aexit__(None, None, None)))
        yield found


def read(verdict: Verdict) -> list[tuple[int, int]]:
    """What is left of each limit, and what open calls hold of it."""
    readings = [verdict.reading(place) for place in range(len(verdict.counters.buckets))]
    return [(reading.left, reading.held) for reading in readings]


def money(nano: int) -> Amounts:
    """A call that costs as much at most as probably."""
    return Amounts(0, nano, nano, 0)


class Model(RuleBasedStateMachine):
    """Two replicas on one Redis, one process alone, and plain sums; each call at both."""

    redis: RedisServer
    loop: Loop

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.loop.run(self.redis.say("FLUSHALL"))
        self.alone = Book(self.clock, self.clock)
        self.shared = [self.loop.run(self.open()) for _ in range(2)]
        self.next = 0
        self.open_calls: dict[str, tuple[int, int]] = {}
        self.spent, self.held, self.places = 0, 0, 0

    async def open(self) -> SharedBook:
        store = Store(wire(place(self.redis.url), 20.0))
        return SharedBook(store, Book(self.clock, self.clock), Outage(Log(), Count(), self.clock), self.clock, 20.0)

    def teardown(self) -> None:
        for shared in self.shared:
            self.loop.run(shared.aclose())

    @rule(amount=amounts, replica=strategies.integers(0, 1))
    def reserve(self, amount: int, replica: int) -> None:
        self.next += 1
        id_ = f"call-{self.next}"
        alone = self.alone.reserve(id_, TERMS, money(amount))
        shared = self.loop.run(self.shared[replica].reserve(id_, TERMS, money(amount), 60.0))
        left = 1000 - self.spent - self.held
        admitted = amount <= left and left > 0 and self.places < 5
        assert (alone.refused is None) == (shared.refused is None) == admitted
        assert read(alone) == read(shared)
        if admitted:
            self.open_calls[id_] = amount, replica
            self.held += amount
            self.places += 1

    @rule(share=strategies.floats(0, 1), which=strategies.integers(0), twice=strategies.booleans())
    def settle(self, share: float, which: int, twice: bool) -> None:
        if not self.open_calls:
            return
        id_ = list(self.open_calls)[which % len(self.open_calls)]
        amount, replica = self.open_calls.pop(id_)
        actual = int(amount * share)
        for again in range(1 + twice):
            assert self.alone.settle(id_, 0, actual) == (not again)
            self.loop.run(self.tell(replica, id_, actual))
        self.spent += actual
        self.held -= amount
        self.places -= 1

    @rule(share=strategies.floats(0, 1), which=strategies.integers(0))
    def expire_and_settle_late(self, share: float, which: int) -> None:
        """Redis gives up waiting: the reserved amount is charged, the place is free; then the truth comes after all."""
        if not self.open_calls:
            return
        id_ = list(self.open_calls)[which % len(self.open_calls)]
        amount, replica = self.open_calls[id_]
        self.loop.run(self.redis.say("ZADD", "arriero:{t:k}:due", 0, id_))
        self.loop.run(self.touch(replica))  # any command sweeps
        money = self.loop.run(self.money(HARD))
        assert money["h"] == self.held - amount
        assert money["m"] + money["e"] == self.spent + amount
        self.settle(share, list(self.open_calls).index(id_), twice=False)

    @rule(replica=strategies.integers(0, 1))
    def crash(self, replica: int) -> None:
        """A replica dies, and another begins in its place: nobody says how its calls ended, so that they are charged as
        they were reserved, and the ledger has them so."""
        lost = [id_ for id_, (_, owner) in self.open_calls.items() if owner == replica]
        self.loop.run(self.shared[replica].aclose())
        for id_ in lost:
            amount, _ = self.open_calls.pop(id_)
            self.loop.run(self.redis.say("ZADD", "arriero:{t:k}:due", 0, id_))
            assert self.alone.settle(id_, 0, amount)
            self.spent += amount
            self.held -= amount
            self.places -= 1
        self.shared[replica] = self.loop.run(self.open())
        for budget in (HARD, SOFT):
            self.shared[replica]._book.purse(budget).remember(self.spent)
        for each in (replica, 1 - replica):  # any command sweeps
            self.loop.run(self.touch(each))
        money = self.loop.run(self.money(HARD))
        assert money["m"] + money["e"] == self.spent

    @rule()
    def lose_everything(self) -> None:
        """A flush: the next call finds it out; sums and open calls are put back."""
        self.loop.run(self.redis.say("FLUSHALL"))
        for replica in (0, 1):  # each puts back what it knows
            self.loop.run(self.touch(replica))
        money = self.loop.run(self.money(HARD))
        assert (money["m"], money["e"], money["h"]) == (self.spent, 0, self.held)

    async def touch(self, replica: int) -> None:
        """A call that costs nothing, if there is a place for it."""
        self.next += 1
        await self.shared[replica].reserve(f"touch-{self.next}", TERMS, money(0), 60.0)
        await self.settled(replica)
        await self.tell(replica, f"touch-{self.next}", 0)

    async def tell(self, replica: int, id_: str, actual: int) -> None:
        self.shared[replica].settle(id_, 0, actual)
        await self.settled(replica)

    async def settled(self, replica: int) -> None:
        shared = self.shared[replica]
        await eventually(lambda: not shared.waiting and not shared.restoring, "never confirmed")

    async def money(self, budget: Rule) -> dict[str, int]:
        key = f"arriero:{{t:k}}:{budget.name}:"
        found = {name: await self.redis.say("HGET", key, name) for name in "bmeh"}
        money = {name: 0 if value == b"$-1" else int(value) for name, value in found.items()}
        return {**money, "m": money["b"] + money["m"]}

    @invariant()
    def the_sum_of_truths_is_the_counters(self) -> None:
        purse = self.alone.purse(HARD)
        assert (purse.spent, purse.held) == (self.spent, self.held)
        assert self.held == sum(amount for amount, _ in self.open_calls.values())
        money = self.loop.run(self.money(HARD))
        assert money["m"] + money["e"] + money["h"] in (0, self.spent + self.held)


def test_the_sum_of_truths_is_the_counters(redis: RedisServer, loop: Loop):
    Model.redis, Model.loop = redis, loop
    run_state_machine_as_test(Model, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))


class Restarted(RuleBasedStateMachine):
    """One process with a ledger, which dies now and then: what the ledger says is where the next one begins."""

    @initialize()
    def begin(self) -> None:
        self.clock, self.next = Clock(), 0
        self.ledger = 0
        self.open_calls: dict[str, int] = {}
        self.restart()

    def restart(self) -> None:
        self.book = Book(self.clock, self.clock)
        for rule_, purse in self.book.counters(TERMS).unknown:
            assert rule_.kind == "budget"
            purse.remember(self.ledger)

    @rule(amount=amounts)
    def reserve(self, amount: int) -> None:
        self.next += 1
        verdict = self.book.reserve(f"call-{self.next}", TERMS, money(amount))
        left = 1000 - self.ledger - sum(self.open_calls.values())
        assert (verdict.refused is None) == (amount <= left and left > 0 and len(self.open_calls) < 5)
        if verdict.refused is None:
            self.open_calls[f"call-{self.next}"] = amount

    @rule(share=strategies.floats(0, 1), which=strategies.integers(0), twice=strategies.booleans())
    def settle(self, share: float, which: int, twice: bool) -> None:
        if self.open_calls:
            id_ = list(self.open_calls)[which % len(self.open_calls)]
            actual = int(self.open_calls.pop(id_) * share)
            for again in range(1 + twice):
                assert self.book.settle(id_, 0, actual) == (not again)
            self.ledger += actual

    @rule(share=strategies.floats(0, 1))
    def crash(self, share: float) -> None:
        """What was under way is in the ledger as it was estimated; nobody holds anything any more."""
        self.ledger += sum(int(amount * share) for amount in self.open_calls.values())
        self.open_calls.clear()
        self.restart()

    @invariant()
    def the_ledger_and_what_is_open_are_the_counters(self) -> None:
        for budget in (HARD, SOFT):
            purse = self.book.purse(budget)
            assert (purse.spent, purse.held) == (self.ledger, sum(self.open_calls.values()))
        assert self.book.bucket(PLACES).held == len(self.open_calls)


def test_a_process_that_dies_leaves_its_ledger_to_the_next():
    run_state_machine_as_test(Restarted, settings=settings(max_examples=100, deadline=None))


def rate_of(limit: int) -> Terms:
    return Terms((Rule("tpm", "key", "k", "k", limit),))


class Alone(RuleBasedStateMachine):
    """Rates at a standing clock: what is settled is what is gone."""

    @initialize(limit=strategies.integers(1, 100_000))
    def begin(self, limit: int) -> None:
        self.limit, self.terms, self.next = limit, rate_of(limit), 0
        self.book = Book(Clock(), Clock())
        self.open_calls: dict[str, int] = {}
        self.used_us = 0

    @rule(share=strategies.floats(0, 1))
    def take(self, share: float) -> None:
        amount = max(1, int(self.limit * share))
        self.next += 1
        verdict = self.book.reserve(f"call-{self.next}", self.terms, Amounts(amount, 0, 0, 0))
        assert (verdict.refused is None) == (self.used_us + rate_us(amount, self.limit) <= MINUTE_US)
        if verdict.refused is None:
            self.open_calls[f"call-{self.next}"] = amount
            self.used_us += rate_us(amount, self.limit)
        else:
            assert verdict.wait_us == self.used_us + rate_us(amount, self.limit) - MINUTE_US

    @rule(share=strategies.floats(0, 1), which=strategies.integers(0))
    def settle(self, share: float, which: int) -> None:
        if self.open_calls:
            id_ = list(self.open_calls)[which % len(self.open_calls)]
            amount = self.open_calls.pop(id_)
            actual = int(amount * share)
            self.book.settle(id_, actual, 0)
            self.used_us += rate_us(actual, self.limit) - rate_us(amount, self.limit)

    @invariant()
    def what_is_gone_is_what_was_used(self) -> None:
        (rate,) = self.book.counters(self.terms).tokens
        assert rate.reset_us(self.book.now_us()) == self.used_us


def test_rates_are_what_was_really_used():
    run_state_machine_as_test(Alone, settings=settings(max_examples=100, deadline=None))


@given(
    strategies.integers(1, 10**9),
    strategies.lists(strategies.tuples(strategies.floats(0, 30), strategies.floats(0, 1))),
)
def test_no_minute_has_more_than_twice_the_limit(limit: int, calls: list[tuple[float, float]]):
    """A minute's worth at once, and what comes back in that minute."""
    clock, terms, taken = Clock(), rate_of(limit), []
    book = Book(clock, clock)
    for number, (pause_s, share) in enumerate(calls):
        clock.advance(pause_s)
        amount = max(1, int(limit * share))
        if book.reserve(f"call-{number}", terms, Amounts(amount, 0, 0, 0)).refused is None:
            taken.append((clock(), amount))
    for began, _ in taken:
        within = sum(amount for at, amount in taken if began <= at < began + 60)
        assert within <= 2 * limit + len(taken) * (limit // MINUTE_US + 1)
