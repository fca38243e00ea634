"""A simulated minute of traffic: clouds with scripted latency and faults, a clock, and what a gateway learns."""

import heapq
import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.types import Call, Candidate, Policy, Price, Quantiles, Speed
from tests.policies.cases import call, candidate

Latency = Callable[[float], float]
Faulty = Callable[[float], bool]


def steadily(seconds: float) -> Latency:
    return lambda _: seconds


def never(_: float) -> bool:
    return False


class Decaying:
    """Quantiles of the last 24 samples, each worth 0.8 of the next younger one: a slow sample counts at once."""

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=24)
        self.samples = 0
        self.updated = 0.0

    def add(self, value: float, now: float) -> None:
        self.values.append(value)
        self.samples += 1
        self.updated = now

    def quantiles(self) -> Quantiles | None:
        if not self.values:
            return None
        weighted = sorted((value, 0.8**age) for age, value in enumerate(reversed(self.values)))
        return Quantiles(self._at(weighted, 0.5), self._at(weighted, 0.95), self.samples, self.updated)

    @staticmethod
    def _at(weighted: Sequence[tuple[float, float]], share: float) -> float:
        left = share * sum(weight for _, weight in weighted)
        for value, weight in weighted:
            left -= weight
            if left <= 0.0:
                return value
        return weighted[-1][0]


class Cloud:
    """One deployment: how fast it answers a call begun at a time, whether it fails it, and what is known of it."""

    def __init__(self, name: str, latency: Latency, faulty: Faulty = never, price: Price | None = None) -> None:
        self.name, self.latency, self.faulty, self.price = name, latency, faulty, price
        self.tpot_s = 0.01
        self.fault_s = 0.001
        self.cools_s = 0.0
        self.known = {True: (Decaying(), Decaying()), False: (Decaying(), Decaying())}
        self.in_flight = self.failures = 0
        self.failing_since = self.failed_at = self.cooling_until = 0.0
        self.good = self.bad = 0.0
        self.seen_at = 0.0

    def candidate(self, now: float) -> Candidate:
        fade = math.exp(-(now - self.seen_at) / 15.0)
        recent = (self.good + self.bad) * fade
        return candidate(
            self.name,
            price=self.price,
            in_flight=self.in_flight,
            stream=Speed(*(known.quantiles() for known in self.known[True])),
            plain=Speed(*(known.quantiles() for known in self.known[False])),
            error_rate=self.bad / (self.good + self.bad) if self.bad else 0.0,
            recent=recent,
            failures=self.failures,
            failing_since=self.failing_since if self.failures else 0.0,
            failed_at=self.failed_at,
            cooling_until=self.cooling_until,
            cooling_why="429" if self.cooling_until else "",
        )

    def learn(self, ok: bool, stream: bool, seconds: float, now: float) -> None:
        fade = math.exp(-(now - self.seen_at) / 15.0)
        self.good, self.bad, self.seen_at = self.good * fade + ok, self.bad * fade + (not ok), now
        if ok:
            self.failures = 0
            ttft, tpot = self.known[stream]
            ttft.add(seconds, now)
            tpot.add(self.tpot_s if stream else seconds / 200, now)
            return
        self.failing_since = self.failing_since if self.failures else now
        self.failures += 1
        self.failed_at = now
        self.cooling_until = now + self.cools_s if self.cools_s else 0.0


class Tried(NamedTuple):
    """One attempt of one call."""

    number: int
    at: float
    name: str
    first: bool
    ok: bool


class World:
    """Calls at a steady rate through policies to clouds. A failed try goes on to the next, three at most."""

    def __init__(
        self, clouds: Sequence[Cloud], *policies: Policy, rate_per_s: float = 10.0, stream: bool = True
    ) -> None:
        self.clouds = {cloud.name: cloud for cloud in clouds}
        self.policies, self.rate_per_s, self.stream = policies, rate_per_s, stream
        self.now = 1000.0
        self.tried: list[Tried] = []
        self._calls = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def run(self, calls: int) -> list[Tried]:
        """So many calls more, one every 1 / rate seconds; their tries. Answers come in when their time has come."""
        begun = len(self.tried)
        for _ in range(calls):
            self._until(self.now + 1.0 / self.rate_per_s)
            self._calls += 1
            asked = call(self._calls, stream=self.stream)
            self._try(asked, self.decide(asked), first=True)
        return self.tried[begun:]

    def pause(self, seconds: float) -> None:
        self._until(self.now + seconds)

    def decide(self, asked: Call) -> list[str]:
        left: Sequence[Candidate] = [cloud.candidate(self.now) for cloud in self.clouds.values()]
        for policy in self.policies:
            left = policy.apply(asked, left, self.now).kept
        return [each.name for each in left][:3]

    def _try(self, asked: Call, order: Sequence[str], first: bool) -> None:
        if not order:
            return
        cloud = self.clouds[order[0]]
        ok = not cloud.faulty(self.now)
        seconds = cloud.latency(self.now) if ok else cloud.fault_s
        self.tried.append(Tried(self._calls, self.now, cloud.name, first, ok))
        cloud.in_flight += 1

        def done() -> None:
            cloud.in_flight -= 1
            cloud.learn(ok, asked.stream, seconds, self.now)
            if not ok:
                self._try(asked, order[1:], first=False)

        heapq.heappush(self._events, (self.now + seconds, next(self._order), done))

    def _until(self, then: float) -> None:
        while self._events and self._events[0][0] <= then:
            self.now, _, done = heapq.heappop(self._events)
            done()
        self.now = then


def shares(tried: Sequence[Tried]) -> dict[str, float]:
    """For each cloud the share of the calls whose first try went there."""
    firsts = Counter(each.name for each in tried if each.first)
    return {name: count / sum(firsts.values()) for name, count in firsts.items()}


def noisily(median_s: float, seed: int, spread: float = 0.3) -> Latency:
    """Log-normal around a median: 0.3 is a p95 of 1.6 times the median."""
    chance = random.Random(seed)
    return lambda _: median_s * math.exp(chance.gauss(0.0, spread))
