"""Away from what is nearly full: rate limits, retry-after, queues and KV caches as one number. Nothing about failures.

Rule 1. Room is the least of what each fact leaves: 1 is empty, 0 is full. What is not told leaves all.
Rule 2. At `drain` times `keep` and above every call may come; below it ever fewer; below `keep` none.
Rule 3. What was full comes back over `return_s`, not at once.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Frozen, Selection, dice
from policies._reasons import cooling, short


class Headroom(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Removes the deployments that have hardly any room left, and ever more calls from those that are getting there.

    Room is the least of: the requests and the tokens that the rate-limit headers say are left until their reset, the
    part of a KV cache that is free, and a queue against `queue_full` waiting calls. Below `keep` a deployment is out;
    up to `drain` times that it serves a falling share of the calls, so that traffic moves away before the 429. While a
    cloud asked to be left alone it is out, and then comes back over `return_s` seconds. Never removes everybody: the
    one with most room stays, or the one whose cooling ends first if all are cooling.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "can_now"
    order_independent: ClassVar[bool] = True

    keep: float = 0.05
    drain: float = 4.0
    return_s: float = 10.0
    queue_full: int = 10

    def __post_init__(self) -> None:
        if not 0.0 <= self.keep < 1.0:
            raise ValueError(f"keep must be a share from 0 to below 1, such as 0.05, not {self.keep}")
        if not 1.0 <= self.drain < math.inf:
            raise ValueError(f"drain must be at least 1 (times keep), not {self.drain}")
        if not 0.0 <= self.return_s < math.inf:
            raise ValueError(f"return_s must be seconds from 0 up, not {self.return_s}")
        if self.queue_full < 1:
            raise ValueError(f"queue_full must be at least 1 waiting call, not {self.queue_full}")

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        low = self._full_from()
        returning = max(0.0, now - self.return_s)
        kv_high, queue_high = 1.0 - low, self.queue_full * (1.0 - low)
        for candidate in candidates:
            room = candidate.room
            if (
                candidate.cooling_until > returning
                or room.requests_left < low
                or room.tokens_left < low
                or (candidate.kv_used is not None and candidate.kv_used > kv_high)
                or (candidate.queue and candidate.queue > queue_high)
            ):
                return self._sort_out(call, candidates, now)
        return Selection(candidates)

    def _full_from(self) -> float:
        """The room from which on every call may come."""
        return min(1.0, self.keep * self.drain)

    def _sort_out(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        kept, removed = [], {}
        roomiest: tuple[float, float, str, Candidate] | None = None
        for candidate in candidates:
            room, what = self._room(candidate, now)
            reason = self._refusal(call, candidate, room, what, now)
            if reason is None:
                kept.append(candidate)
                continue
            removed[candidate.name] = reason
            cools_s = max(0.0, candidate.cooling_until - now)
            rank = (cools_s, -room, candidate.name, candidate)
            if roomiest is None or rank[:3] < roomiest[:3]:
                roomiest = rank
        if not removed:
            return Selection(candidates)
        if kept or roomiest is None:
            return Selection(kept, removed)
        reason = removed.pop(roomiest[2])
        return Selection([roomiest[3]], removed, short(f"nobody has room; most has {roomiest[2]}: {reason}"))

    def _refusal(self, call: Call, candidate: Candidate, room: float, what: str, now: float) -> str | None:
        """Why this call may not go there; None if it may."""
        if candidate.cooling_until > now:
            return cooling(candidate, now)
        full_from = self._full_from()
        if room >= full_from:
            return None
        if room < self.keep:
            return short(f"{what}, keeps {self.keep:.0%} free")
        share = (room - self.keep) / (full_from - self.keep)
        if dice(call, "headroom:" + candidate.name) < share:
            return None
        return short(f"{what}, so {share:.0%} of calls may come")

    def _room(self, candidate: Candidate, now: float) -> tuple[float, str]:
        """The least room that any fact leaves, 0..1, and the words for that fact."""
        told = candidate.room
        rooms = [
            self._left("requests", told.requests_left, told.requests_reset, now),
            self._left("tokens", told.tokens_left, told.tokens_reset, now),
        ]
        if candidate.kv_used is not None:
            rooms.append((1.0 - candidate.kv_used, f"KV cache {candidate.kv_used:.1%} used"))
        if candidate.queue:
            rooms.append((1.0 - candidate.queue / self.queue_full, f"{candidate.queue:,} calls in its queue"))
        if 0.0 < candidate.cooling_until <= now:
            since_s = now - candidate.cooling_until
            rooms.append((self._back(since_s), f"cooled until {since_s:.1f} s ago"))
        room, what = min(rooms)
        return min(1.0, max(0.0, room)), what

    def _left(self, what: str, share: float, reset: float, now: float) -> tuple[float, str]:
        """What is left of a limit: as told until its reset; then all of it, but slowly if it was nearly used up."""
        if now < reset:
            return share, f"{share:.1%} of {what} left"
        if share >= self._full_from():
            return 1.0, ""
        return max(share, self._back(now - reset)), f"{share:.1%} of {what} left until {now - reset:.1f} s ago"

    def _back(self, since_s: float) -> float:
        """The room of one that was full until so many seconds ago: from `keep` up to where every call may come."""
        if since_s >= self.return_s:
            return 1.0
        return self.keep + (self._full_from() - self.keep) * since_s / self.return_s
