"""Away from what is broken: circuits, from failures in a row and the success rate. Nothing about speed or limits."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Frozen, Selection, chance
from policies._reasons import cooling, short
from policies._recovery import pause_s


class Breaker(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Removes the deployments whose circuit is open, and lets one real call at a time try one that is half-open.

    A circuit opens after `consecutive` failures in a row, or when fewer than `success` of at least `min_recent` recent
    attempts succeeded (Finagle's hybrid failure accrual: 5, or 80 % of 5 over 30 s). It stays open for `open_s` after
    the last failure, twice as long for each further failure up to `longest_open_s`, half of it fixed and half by chance
    (Finagle: 5 s to 300 s, equal jitter). Then it is half-open: one call in flight, and its answer closes or opens it;
    no health check does. While the cloud asked to be left alone the circuit is open too. The last candidate is never
    removed: if all are open, the one that recovers first stays.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "can_now"
    order_independent: ClassVar[bool] = True

    consecutive: int = 5
    success: float = 0.8
    min_recent: float = 5.0
    open_s: float = 5.0
    longest_open_s: float = 300.0

    def __post_init__(self) -> None:
        if self.consecutive < 1:
            raise ValueError(f"consecutive must be at least 1 failure, not {self.consecutive}")
        if not 0.0 <= self.success <= 1.0:
            raise ValueError(f"success must be a share from 0 to 1, such as 0.8, not {self.success}")
        if not 0.0 < self.min_recent < math.inf:
            raise ValueError(f"min_recent must be a number of attempts above 0, not {self.min_recent}")
        if not 0.0 < self.open_s <= self.longest_open_s < math.inf:
            raise ValueError("open_s must be above 0 seconds and at most longest_open_s")

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        bad = 1.0 - self.success
        for candidate in candidates:
            if candidate.failures or candidate.error_rate > bad or candidate.cooling_until > now:
                return self._sort_out(candidates, now)
        return Selection(candidates)

    def _sort_out(self, candidates: Sequence[Candidate], now: float) -> Selection:
        kept, opened = [], []
        for candidate in candidates:
            shut = self._shut(candidate, now)
            if shut is None:
                kept.append(candidate)
            else:
                opened.append((shut[0], candidate.name, shut[1], candidate))
        if not opened:
            return Selection(candidates)
        removed = {name: reason for _, name, reason, _ in opened}
        if kept:
            return Selection(kept, removed)
        first = min(opened, key=lambda entry: entry[:2])
        del removed[first[1]]
        return Selection([first[3]], removed, short(f"every circuit is open; {first[1]} recovers first: {first[2]}"))

    def _shut(self, candidate: Candidate, now: float) -> tuple[float, str] | None:
        """Until when no call may pass, and why; None while calls may pass."""
        cool = candidate.cooling_until if candidate.cooling_until > now else None
        in_a_row = candidate.failures >= self.consecutive
        if not in_a_row and (candidate.recent < self.min_recent or 1.0 - candidate.error_rate >= self.success):
            return None if cool is None else (cool, cooling(candidate, now))
        until = candidate.failed_at + self._open_for_s(candidate)
        if cool is not None and cool >= until:
            return cool, cooling(candidate, now)
        if until > now:
            return until, short(f"open {until - now:.1f} s more: {_trouble(candidate, in_a_row)}")
        if candidate.in_flight:
            return now, short(f"half-open, one call is trying it: {_trouble(candidate, in_a_row)}")
        return None

    def _open_for_s(self, candidate: Candidate) -> float:
        """Half of the pause, and a part of the other half: the same for every call that sees the same failure."""
        pause = pause_s(candidate, candidate.failures - self.consecutive, self.open_s, self.longest_open_s)
        return pause * (0.5 + 0.5 * chance(0, f"{candidate.name} {candidate.failed_at}"))


def _trouble(candidate: Candidate, in_a_row: bool) -> str:
    if in_a_row:
        return f"{candidate.failures} failures in a row"
    return f"{1.0 - candidate.error_rate:.0%} of {candidate.recent:.0f} recent calls succeeded"
