"""One goal within limits on the others: the cheapest that is fast enough, or the fastest that is cheap enough."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from operator import attrgetter, itemgetter
from typing import ClassVar, Literal

import msgspec

from gateway.types import NANO_PER_USD, TOKENS_PER_PRICE, Call, Candidate, Frozen, Quantiles, Selection
from policies._cost import OwnGpus, expected_costs, own_gpus_lead
from policies._latency import Latency, led_by, rested, rests_until, spread, total_s
from policies._reasons import short

ENOUGH_ATTEMPTS = 5.0
"""Recent attempts that make an error rate one: one failure of one attempt is not 100 %."""
UNKNOWN = (0.0, "")


class Limits(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must hold: seconds, a share of failed attempts, US dollars of this call. None is no limit."""

    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    total_p95_s: float | None = None
    tpot_p95_s: float | None = None
    error_rate: float | None = None
    cost_usd: Decimal | None = None

    def __post_init__(self) -> None:
        for word in ("ttft_p50_s", "ttft_p95_s", "total_p95_s", "tpot_p95_s"):
            limit = getattr(self, word)
            if limit is not None and not 0.0 < limit < math.inf:
                raise ValueError(f"{word} must be seconds above 0, not {limit}")
        if self.error_rate is not None and not 0.0 < self.error_rate <= 1.0:
            raise ValueError(f"error_rate must be a share above 0 up to 1, such as 0.02, not {self.error_rate}")
        if self.cost_usd is not None and not (
            self.cost_usd.is_finite() and 1 <= self.cost_usd * NANO_PER_USD <= 10**24
        ):
            raise ValueError(f"cost_usd must be US dollars from 0.000000001 up, not {self.cost_usd}")

    def misses(
        self, call: Call, candidates: Sequence[Candidate], costs: Sequence[int | None]
    ) -> list[tuple[float, str] | None]:
        """For each candidate how many times over its limit the worst figure is, and which.

        None if no limit is missed, UNKNOWN if that cannot be told before it answered such calls. A plain call shows no
        first token, so it is not held to the limits on that."""
        stream, error_rate = call.stream, self.error_rate
        ttft_p95_s, ttft_p50_s = (self.ttft_p95_s, self.ttft_p50_s) if stream else (None, None)
        by_length = self.tpot_p95_s is not None or self.total_p95_s is not None
        cap = None if self.cost_usd is None else int(self.cost_usd * NANO_PER_USD * TOKENS_PER_PRICE)
        if cap is None and not by_length and ttft_p95_s is None and ttft_p50_s is None:  # a plain call, usually
            return [self._erring(candidate) for candidate in candidates]
        unheard = UNKNOWN if by_length or ttft_p95_s is not None or ttft_p50_s is not None else None
        answers: list[tuple[float, str] | None] = []
        for candidate, cost in zip(candidates, costs, strict=True):
            worst, word = 1.0, ""
            if cap is not None and (cost is None or cost > cap):
                worst, word = math.inf if cost is None else cost / cap, "cost_usd"
            if error_rate is not None and candidate.error_rate > error_rate and candidate.recent >= ENOUGH_ATTEMPTS:
                worst, word = max((worst, word), (candidate.error_rate / error_rate, "error_rate"))
            speed = candidate.stream if stream else candidate.plain
            ttft = speed.ttft
            if ttft is None:
                answers.append((worst, word) if word else unheard)
                continue
            if ttft_p95_s is not None and ttft.p95_s > ttft_p95_s * worst:
                worst, word = ttft.p95_s / ttft_p95_s, "ttft_p95_s"
            if ttft_p50_s is not None and ttft.p50_s > ttft_p50_s * worst:
                worst, word = ttft.p50_s / ttft_p50_s, "ttft_p50_s"
            if by_length:
                worst, word = max((worst, word), self._miss_by_length(call, ttft, speed.tpot))
            answers.append((worst, word) if word else None)
        return answers

    def _erring(self, candidate: Candidate) -> tuple[float, str] | None:
        """The same for the limit on errors alone."""
        rate, limit = candidate.error_rate, self.error_rate
        if not rate or limit is None or rate <= limit or candidate.recent < ENOUGH_ATTEMPTS:
            return None
        return rate / limit, "error_rate"

    def _miss_by_length(self, call: Call, ttft: Quantiles, tpot: Quantiles | None) -> tuple[float, str]:
        """The same for the limits on the time per token and on the whole answer; no word if neither is missed."""
        worst, word = 1.0, ""
        if self.tpot_p95_s is not None and tpot is not None and tpot.p95_s > self.tpot_p95_s:
            worst, word = tpot.p95_s / self.tpot_p95_s, "tpot_p95_s"
        if self.total_p95_s is not None:
            total = ttft.p95_s if tpot is None else total_s(call, ttft.p95_s, tpot.p95_s)
            if total > self.total_p95_s * worst:
                worst, word = total / self.total_p95_s, "total_p95_s"
        return worst, word


class Missing(msgspec.Struct, gc=False):
    """A candidate that misses a limit: by how much and which, and what it is ranked by."""

    share: float
    word: str
    value: float
    candidate: Candidate


class Groups(msgspec.Struct):
    """The candidates of one decision: with what they are ranked by, or until when they rest."""

    meet: list[tuple[float, Candidate]]
    miss: list[Missing]
    unknown: list[tuple[float, Candidate]]
    resting: list[tuple[float, Candidate]]


class Objective(Latency, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Puts first the cheapest, or the fastest, of those that meet the limits on everything else.

    `minimize` is cost or latency, both as in lowest_cost and lowest_latency. `subject_to` holds the limits; the ones on
    the first token are for streams, a plain call shows none. Then come those that miss a limit, nearest first: by the
    limit they miss by most, as a share of it. Then those of whom too little is known, and last those that failed a
    short while ago or cool.

    Who is not known is met, and who is stale explored, as in lowest_latency, but only who could win: while somebody
    meets the limits, only a cheaper one (when latency is minimized: one within `cost_usd`).
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "order"
    order_independent: ClassVar[bool] = True
    EXAMPLE: ClassVar[Mapping[str, object]] = {
        "minimize": "cost",
        "subject_to": {"ttft_p95_s": 0.8, "error_rate": 0.02},
    }

    minimize: Literal["cost", "latency"] = "cost"
    subject_to: Limits = Limits()
    own_gpus: OwnGpus = "marginal"

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        groups = self._judge(call, candidates, now)
        groups.meet.sort(key=itemgetter(0))
        order = [candidate for _, candidate in groups.meet]
        if len(order) == len(candidates) and self.minimize == "cost":
            return Selection(order, {}, short(own_gpus_lead(order, self.own_gpus)))
        groups.miss.sort(key=attrgetter("share"))
        groups.unknown.sort(key=itemgetter(0))
        order += [missing.candidate for missing in groups.miss]
        newcomers = [candidate for _, candidate in groups.unknown]
        best = order[0] if order else None
        order += spread(call, newcomers) if best is None and self.minimize == "latency" else newcomers
        notes = []
        explored = self.to_explore(call, self._could_win(groups), best, now)
        if explored is not None:
            order = led_by(explored.candidate, order)
            notes.append(explored.note)
        if groups.miss and not groups.meet:
            notes.append(self._nearest(groups.miss[0]))
        if groups.resting:
            last, word = rested(groups.resting, now)
            order += last
            notes.append(word)
        return Selection(order, {}, short("; ".join(notes)))

    def _judge(self, call: Call, candidates: Sequence[Candidate], now: float) -> Groups:
        """Who meets the limits, who misses one, of whom too little is known, and who rests."""
        meet: list[tuple[float, Candidate]] = []
        groups = Groups(meet, [], [], [])
        costs = expected_costs(call, candidates, self.own_gpus)
        misses = self.subject_to.misses(call, candidates, costs)
        values: Sequence[float | None] = costs
        if self.minimize == "latency":
            values = [self.latency_s(call, candidate) for candidate in candidates]
        for candidate, value, missed in zip(candidates, values, misses, strict=True):
            if candidate.failures or candidate.cooling_until > now:
                until = rests_until(candidate, now)
                if until is not None:
                    groups.resting.append((until, candidate))
                    continue
            if missed is None and value is not None:
                meet.append((value, candidate))
                continue
            rank = math.inf if value is None else value
            if missed is not None and missed is not UNKNOWN:
                groups.miss.append(Missing(*missed, rank, candidate))
            elif missed is UNKNOWN or self.minimize == "latency":
                groups.unknown.append((rank, candidate))
            else:
                meet.append((rank, candidate))
        return groups

    def _could_win(self, groups: Groups) -> list[Candidate]:
        """Who would come first if it turned out better than what is known of it."""
        able = [(missing.value, missing.candidate) for missing in groups.miss if missing.word != "cost_usd"]
        able += groups.unknown
        if self.minimize == "latency":
            able += groups.meet
        elif groups.meet:
            able = [(value, candidate) for value, candidate in able if value < groups.meet[0][0]]
        return [candidate for _, candidate in able]

    def _nearest(self, missing: Missing) -> str:
        limit = getattr(self.subject_to, missing.word)
        how_far = f"{missing.word} is {missing.share:.2f} times {limit}"
        return f"nobody meets the limits, {missing.candidate.name} is nearest: {how_far}"
