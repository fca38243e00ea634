"""An account's rate limits: buckets that refill evenly, read by the clock they are given."""

from typing import NamedTuple

from sandbox.behaviour import Limits


class Room(NamedTuple):
    """What is left, and in how many seconds all of it will be back."""

    limit: int
    remaining: int
    reset_s: float


class Short(NamedTuple):
    """Which limit was too small for a call, by what, and when it would fit."""

    what: str
    limit: int
    used: int
    requested: int
    wait_s: float


class Bucket:
    """`level` tokens of at most `limit`, of which the whole limit comes back in `period_s`."""

    def __init__(self, limit: int, period_s: float, now: float) -> None:
        self.limit, self._rate, self._level, self._seen = limit, limit / period_s, float(limit), now

    def _refill(self, now: float) -> None:
        self._level = min(float(self.limit), self._level + (now - self._seen) * self._rate)
        self._seen = now

    def wait_s(self, amount: int, now: float) -> float:
        """0 when the amount is there, else how long until it would be."""
        self._refill(now)
        missing = min(amount, self.limit) - self._level
        return max(0.0, missing / self._rate) if missing > 1e-9 else 0.0

    def take(self, amount: int, now: float) -> None:
        self._refill(now)
        self._level = max(0.0, self._level - amount)

    def room(self, now: float) -> Room:
        self._refill(now)
        return Room(self.limit, int(self._level + 1e-9), (self.limit - self._level) / self._rate)


class Limiter:
    """Requests and tokens of one account."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.requests = Bucket(limits.requests, limits.requests_period_s, now)
        self.tokens = Bucket(limits.tokens, limits.tokens_period_s, now)

    def take(self, tokens: int, now: float) -> Short | None:
        """Takes a request of that many tokens; or what was short, and takes nothing."""
        for what, bucket, amount in (("requests", self.requests, 1), ("tokens", self.tokens, tokens)):
            wait_s = bucket.wait_s(amount, now)
            if wait_s > 0:
                room = bucket.room(now)
                return Short(what, room.limit, room.limit - room.remaining, amount, wait_s)
        self.requests.take(1, now)
        self.tokens.take(tokens, now)
        return None


def go_duration(seconds: float) -> str:
    """As Go prints a duration: 2m59.56s, 7.66s, 120ms."""
    if seconds < 1.0:
        return f"{seconds * 1000:.0f}ms" if seconds > 0.0005 else "0s"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    out = f"{int(hours)}h" if hours else ""
    out += f"{int(minutes)}m" if hours or minutes else ""
    return out + f"{rest:.2f}".rstrip("0").rstrip(".") + "s"
