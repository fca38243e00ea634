"""The fastest first, as far as it is known. Nothing about price: objective weighs both."""

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Selection
from policies._latency import Latency, led_by, rested, rests_until, spread
from policies._race import drawn
from policies._reasons import short


class LowestLatency(Latency, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Puts first the deployment that answered this kind of call fastest of late, failures charged.

    `metric: ttft` is the time to the first token (plain calls: to the whole answer), `total` adds the expected output
    tokens at the time per token; `percentile` is p50 or p95. Those within `tolerance` of the fastest share the calls by
    weight. Streams and plain calls are told apart.

    Each deployment is first met: its first three calls of a kind go there one at a time, whoever is best. After that at
    most `explore` of the calls go first to one whose last sample is older than `stale_s`, or who has none. A failed try
    is charged 5 s at the error rate, and who failed or cools comes last: for 5 s, twice as long for each failure in a
    row, up to 300 s.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "order"
    order_independent: ClassVar[bool] = True

    tolerance: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be a share from 0 up, such as 0.1, not {self.tolerance}")

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        known: list[tuple[float, Candidate]] = []
        unknown: list[Candidate] = []
        resting: list[tuple[float, Candidate]] = []
        for candidate in candidates:
            if candidate.failures or candidate.cooling_until > now:
                until = rests_until(candidate, now)
                if until is not None:
                    resting.append((until, candidate))
                    continue
            seconds = self.latency_s(call, candidate)
            if seconds is None:
                unknown.append(candidate)
            else:
                known.append((seconds, candidate))
        order = self._by_speed(call, known)
        if not known and len(unknown) > 1:
            unknown = spread(call, unknown)
        explored = self.to_explore(call, order + unknown, order[0] if order else None, now)
        order += unknown
        note = ""
        if explored is not None:
            order, note = led_by(explored.candidate, order), explored.note
        if resting:
            last, word = rested(resting, now)
            order += last
            note = short(f"{note}; {word}") if note else word
        return Selection(order, {}, note)

    def _by_speed(self, call: Call, known: list[tuple[float, Candidate]]) -> list[Candidate]:
        """The fastest first; those near it in the order of a draw by weight."""
        known.sort(key=itemgetter(0))
        order = [candidate for _, candidate in known]
        if self.tolerance and len(known) > 1:
            slowest = known[0][0] * (1.0 + self.tolerance)
            near = sum(seconds <= slowest for seconds, _ in known)
            if near > 1:
                order[:near] = drawn(call, order[:near], "lowest_latency:")
        return order
