"""What is known of each deployment: speed, failures, cooling, rate-limit room, load, spend. Policies decide.

Rule 1. One owner: a Facts object per account and model, changed only here and by what gossip.py hears of it, read by
        policies as a frozen Candidate.
Rule 2. Latency is learned from successes only; a failure adds to the error rate, never to the speed.
Rule 3. Cooling is an absolute time; of two, the later wins.
"""

import math
import zlib
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

from gateway.outcome import BY_KIND, BY_STATUS, MAX_COOL_S, Outcome
from gateway.prices import marginal_price, own_price
from gateway.types import Candidate, Deployment, Price, Quantiles, Room, Speed, Spent

MEDIAN_WINDOW = 24
P95_WINDOW = 128
"""Samples a quantile is made of: a step change moves the median after 12 calls and the p95 after 7, and one slow answer
in a hundred moves neither."""
ERROR_MEMORY_S = 30.0
DAY_S = 86_400
FRESH_S = 60.0
"""A sample older than this no longer speaks."""
REFUSED = frozenset(o.name for o in (*BY_KIND.values(), *BY_STATUS.values()) if o.fault == "credential")
"""The outcomes that a new credential may undo."""


class Samples:
    """A short memory for the median, a longer one for the p95: one slow answer in a hundred must not be the p95.

    The values in order of time, and those of either memory in order of size."""

    __slots__ = ("_long", "_short", "_times", "_values")

    def __init__(self) -> None:
        self._values: deque[float] = deque()
        self._times: deque[float] = deque()
        self._long: list[float] = []
        self._short: list[float] = []

    def add(self, value: float, now: float) -> Quantiles:
        values, times, long, short = self._values, self._times, self._long, self._short
        values.append(value)
        times.append(now)
        insort(long, value)
        insort(short, value)
        if len(short) > MEDIAN_WINDOW:
            del short[bisect_left(short, values[-MEDIAN_WINDOW - 1])]
        while len(values) > P95_WINDOW or times[0] < now - FRESH_S:
            times.popleft()
            oldest = values.popleft()
            del long[bisect_left(long, oldest)]
            if len(short) > len(long):
                del short[bisect_left(short, oldest)]
        return Quantiles(_at(short, 0.5), _at(long, 0.95), len(long), now)


def _at(by_size: Sequence[float], share: float) -> float:
    return by_size[round((len(by_size) - 1) * share)]


class Pace:
    """First-token and per-token times of one kind of call, streams or plain ones."""

    __slots__ = ("_per_token", "_tpot", "_ttft")

    def __init__(self) -> None:
        self._ttft, self._tpot = Samples(), Samples()
        self._per_token: Quantiles | None = None

    def add(self, ttft_s: float, tpot_s: float | None, now: float) -> Speed:
        if tpot_s is not None:
            self._per_token = self._tpot.add(tpot_s, now)
        return Speed(self._ttft.add(ttft_s, now), self._per_token)


class Decaying:
    """A count that halves every ERROR_MEMORY_S / 2 seconds."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value, self._at = 0.0, 0.0

    def add(self, amount: float, now: float) -> float:
        self._value = self.at(now) + amount
        self._at = now
        return self._value

    def at(self, now: float) -> float:
        past_s = now - self._at
        return self._value * math.exp2(-2.0 / ERROR_MEMORY_S * past_s) if self._value and past_s > 0.0 else self._value


class Spending:
    """Nano-dollars of the UTC day and month and since the start; a new day or month begins at zero."""

    __slots__ = ("_day", "_month", "spent")

    def __init__(self) -> None:
        self._day, self._month = -1, ""  # days since the epoch: UTC has no other midnight
        self.spent = Spent()

    def add(self, nano: int, wall_now: float) -> None:
        if wall_now // DAY_S != self._day:
            self.roll(wall_now)
        was = self.spent
        self.spent = Spent(was.day + nano, was.month + nano, was.total + nano)

    def roll(self, wall_now: float) -> bool:
        """Begins a new day or month when it has come; True if something changed."""
        today = int(wall_now // DAY_S)
        if today == self._day:
            return False
        month = datetime.fromtimestamp(wall_now, UTC).strftime("%Y-%m")
        self.spent = Spent(0, self.spent.month if month == self._month else 0, self.spent.total)
        self._day, self._month = today, month
        return True


class Throughput:
    """Tokens a second in and out of own GPUs, decaying over a minute."""

    __slots__ = ("_began", "_input", "_output")
    SPAN_S = 60.0

    def __init__(self) -> None:
        self._input, self._output = Decaying(), Decaying()
        self._began: float | None = None

    def add(self, prompt_tokens: int, output_tokens: int, now: float) -> None:
        if self._began is None:
            self._began = now
        self._input.add(prompt_tokens, now)
        self._output.add(output_tokens, now)

    def rates(self, now: float) -> tuple[float, float]:
        """Prompt and output tokens a second. A count that halves every h seconds stands for h / ln 2 seconds."""
        if self._began is None:
            return 0.0, 0.0
        span = min(ERROR_MEMORY_S / 2 / 0.6931471805599453, max(now - self._began, 1.0))
        return self._input.at(now) / span, self._output.at(now) / span


class Account:
    """What deployments of one account share: its spend, and the pause after its credential was refused."""

    __slots__ = ("cooling_until", "cooling_why", "spending", "version")

    def __init__(self) -> None:
        self.spending = Spending()
        self.version = 0
        self.cooling_until = 0.0
        self.cooling_why = ""

    def cool(self, until: float, why: str) -> None:
        """Leaves every deployment of the account alone; of two times the later wins."""
        if until > self.cooling_until:
            self.cooling_until, self.cooling_why = until, why
            self.version += 1

    def anew(self) -> "Account":
        """Nothing but the spend, which goes on to be one."""
        found = Account()
        found.spending = self.spending
        return found

    def pardon(self) -> None:
        if self.cooling_why in REFUSED:
            self.cooling_until, self.cooling_why = 0.0, ""
        self.version += 1


class Facts:
    """What is known of one set of weights at one account. `version` moves with every change: views can be kept."""

    __slots__ = (
        "_bad", "_good", "_name", "_plain", "_spending", "_stream", "_throughput", "account", "cooling_until",
        "cooling_why", "failed_at", "failing_since", "failures", "in_flight", "kv_used", "own_gpus", "plain",
        "queue", "room", "stream", "version",
    )  # fmt: skip

    def __init__(self, name: str, account: Account) -> None:
        self._name, self.account = name, account
        self.in_flight = self.failures = 0
        self.failed_at = self.failing_since = self.cooling_until = 0.0
        self.cooling_why = ""
        self.plain = self.stream = Speed()
        self.room = Room()
        self.queue: int | None = None
        self.kv_used: float | None = None
        self._plain, self._stream = Pace(), Pace()
        self._good, self._bad = Decaying(), Decaying()
        self._spending = Spending()
        self._throughput = Throughput()
        self.own_gpus = False
        self.version = 0

    def anew(self, account: Account) -> "Facts":
        """Nothing but the spend, which goes on to be one."""
        found = Facts(self._name, account)
        found._spending = self._spending
        return found

    @property
    def spent(self) -> Spent:
        return self._spending.spent

    def view(self, deployment: Deployment, now: float) -> Candidate:
        """The frozen view, for one of the deployments that share these facts."""
        good, bad = self._good.at(now), self._bad.at(now)
        cooling = self if self.cooling_until >= self.account.cooling_until else self.account
        price, marginal = self._prices(deployment, now)
        return Candidate(
            deployment=deployment,
            price=price,
            marginal=marginal,
            in_flight=self.in_flight,
            plain=self.plain,
            stream=self.stream,
            error_rate=bad / (good + bad) if bad else 0.0,
            recent=good + bad,
            failures=self.failures,
            failed_at=self.failed_at,
            failing_since=self.failing_since,
            cooling_until=cooling.cooling_until,
            cooling_why=cooling.cooling_why,
            room=self.room,
            queue=self.queue,
            kv_used=self.kv_used,
            spent_account=self.account.spending.spent,
            spent=self._spending.spent,
        )

    def _prices(self, deployment: Deployment, now: float) -> tuple[Price | None, Price | None]:
        nano_per_s = deployment.gpu_nano_per_s
        if not nano_per_s:
            return deployment.price, deployment.price
        prompt_rate, output_rate = self._throughput.rates(now)
        loaded = own_price(nano_per_s, prompt_rate, output_rate)
        return loaded, marginal_price(loaded, kv_used=self.kv_used, queue=self.queue)

    def begin(self) -> None:
        self.in_flight += 1
        self.version += 1

    def end(self) -> None:
        self.in_flight -= 1
        self.version += 1

    def succeeded(self, now: float) -> None:
        """It answered; the breaker closes."""
        self._good.add(1.0, now)
        self.failures = 0
        self.failing_since = 0.0
        self.version += 1

    def learn_speed(self, stream: bool, ttft_s: float, tpot_s: float | None, now: float) -> None:
        if stream:
            self.stream = self._stream.add(ttft_s, tpot_s, now)
        else:
            self.plain = self._plain.add(ttft_s, tpot_s, now)
        self.version += 1

    def failed(self, outcome: Outcome, retry_after_s: float | None, now: float) -> None:
        """A failure that says something about the deployment, and how long the cloud wants to be left alone."""
        self._bad.add(1.0, now)
        if not self.failures:
            self.failing_since = now
        self.failures += 1
        self.failed_at = now
        pause = retry_after_s if retry_after_s is not None else self._back_off_s(outcome, now)
        until = now + min(pause, MAX_COOL_S)
        if pause > 0 and until > self.cooling_until:
            self.cooling_until, self.cooling_why = until, outcome.name
        if outcome.fault == "credential":
            self.account.cool(until, outcome.name)
        self.version += 1

    def _back_off_s(self, outcome: Outcome, now: float) -> float:
        """Doubles with each failure in a row, with equal jitter (half fixed, half by a hash of name and time); never
        longer than the failing has lasted, for calls that break together are one failure."""
        if not outcome.cool_s:
            return 0.0
        lasted_s = max(outcome.cool_s, now - self.failing_since)
        full = min(outcome.cool_s * 2.0 ** min(self.failures - 1, 8), lasted_s)
        jitter = zlib.crc32(f"{self._name}{now}".encode()) / 2**32
        return full * (0.5 + jitter / 2)

    def pardon(self) -> None:
        """The credential that was refused is another one now."""
        if self.cooling_why in REFUSED:
            self.cooling_until, self.cooling_why = 0.0, ""
            self.failures, self.failing_since = 0, 0.0
            self.version += 1

    def see_room(self, room: Room) -> None:
        self.room = room
        self.version += 1

    def see_load(self, queue: int | None, kv_used: float | None) -> None:
        if queue != self.queue or kv_used != self.kv_used:
            self.queue, self.kv_used = queue, kv_used
            self.version += 1

    def spend(self, nano: int, wall_now: float) -> None:
        self._spending.add(nano, wall_now)
        self.account.spending.add(nano, wall_now)
        self.account.version += 1

    def used(self, prompt_tokens: int, output_tokens: int, now: float) -> None:
        """Tokens that flowed; they matter where own GPUs are priced by them."""
        if self.own_gpus:
            self._throughput.add(prompt_tokens, output_tokens, now)

    def roll(self, wall_now: float) -> None:
        """A new UTC day or month empties the spend of the last one."""
        if self._spending.roll(wall_now) | self.account.spending.roll(wall_now):
            self.account.version += 1


class Health:
    """The facts of every deployment and the output lengths learned per route and key."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.accounts: dict[str, Account] = {}
        self.known: dict[tuple[str, str, str | None], Facts] = {}
        self._lengths: dict[tuple[str, str], float] = {}

    def facts(self, deployment: Deployment) -> Facts:
        """The facts of the weights behind a deployment; two routes to the same weights share them."""
        key = (deployment.account, deployment.model, deployment.adapter)
        if key not in self.known:
            account = self.accounts.setdefault(deployment.account, Account())
            self.known[key] = Facts(deployment.name, account)
        found = self.known[key]
        found.own_gpus = found.own_gpus or deployment.gpu_nano_per_s > 0
        return found

    def all(self) -> Sequence[Facts]:
        return list(self.known.values())

    def roll(self, wall_now: float) -> None:
        """Begins a new day or month everywhere, also where nothing is spent any more."""
        for facts in self.known.values():
            facts.roll(wall_now)

    def after(self, moved: Collection[str]) -> "Health":
        """For the next config: all that is known; of accounts that moved to another place only what they spent."""
        found = Health(self.clock)
        found._lengths = self._lengths
        for name, account in self.accounts.items():
            found.accounts[name] = account.anew() if name in moved else account
        for key, facts in self.known.items():
            found.known[key] = facts.anew(found.accounts[key[0]]) if key[0] in moved else facts
        return found

    def forget(self, in_use: Collection[Facts]) -> None:
        """Drops what no deployment uses any more, but for what was spent this month: its budget counts on."""
        used = set(map(id, in_use))
        self.known = {key: facts for key, facts in self.known.items() if id(facts) in used or facts.spent.month}

    def pardon(self, account: str) -> None:
        """Lets an account be tried at once whose credential had been refused."""
        if account in self.accounts:
            self.accounts[account].pardon()
        for key, facts in self.known.items():
            if key[0] == account:
                facts.pardon()

    def expected_output_tokens(self, route: str, tenant: str, asked: int | None) -> int:
        """What this route and key usually get per choice, bounded by what was asked; at first that, or 256."""
        learned = self._lengths.get((route, tenant))
        expected = 256 if learned is None else int(learned + 0.5)
        return expected if asked is None else min(expected, asked) if learned is not None else asked

    def learn_length(self, route: str, tenant: str, output_tokens: int) -> None:
        """Moves the expectation a tenth of the way to what just came."""
        key = (route, tenant)
        was = self._lengths.get(key)
        self._lengths[key] = output_tokens if was is None else was + 0.1 * (output_tokens - was)
